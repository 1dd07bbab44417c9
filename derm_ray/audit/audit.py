"""Auditing a manifest."""

import importlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from derm_ray.audit.findings import (
    DuplicateGroup,
    Images,
    Problem,
    distinct,
    duplicate_groups,
    lesion_codes,
    problem_images,
)
from derm_ray.audit.fingerprint import Fingerprints
from derm_ray.audit.label_errors import LabelErrors, find_label_errors
from derm_ray.audit.matching import Indices, Mask
from derm_ray.audit.running import fingerprint_all, near_duplicates
from derm_ray.data.manifest import SOURCE, Manifest
from derm_ray.data.prepared import is_prepared
from derm_ray.data.summary import ManifestSummary, summarize
from derm_ray.data.validation import GroupLeak, groups_in_several_splits, validate
from derm_ray.errors import ConfigError
from derm_ray.runtime import ray_session

_LIBRARIES = {"imagehash": "ImageHash", "faiss": "faiss-cpu", "cleanlab": "cleanlab"}


@dataclass(frozen=True, eq=False)
class Audit:
    """The findings of an audit.

    Attributes:
        manifest: what was audited.
        summary: its counts.
        images: its images.
        fingerprints: of these, in order of ``images.uris``.
        duplicates: groups of images of several lesions that show the same photo.
        group_leaks: lesions and patients in several splits.
        problems: problem -> images that have it.
        label_errors: likely ones; ``None`` without predictions.
    """

    manifest: Manifest
    summary: ManifestSummary
    images: Images
    fingerprints: Fingerprints
    duplicates: list[DuplicateGroup]
    group_leaks: list[GroupLeak]
    problems: dict[Problem, Indices]
    label_errors: LabelErrors | None

    @property
    def leak(self) -> bool:
        """Whether a duplicate, a lesion or a patient is in several splits."""
        return bool(self.group_leaks or any(group.leak for group in self.duplicates))

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of findings of each kind: groups of duplicates, groups in several splits, pairs, or images."""
        groups = self.duplicates
        found = {
            "duplicates_across_splits": sum(group.leak for group in groups),
            "groups_in_several_splits": len(self.group_leaks),
            "exact_duplicates": sum(group.exact for group in groups),
            "near_duplicates": sum(not group.exact for group in groups),
            "label_conflicts": sum(group.conflict for group in groups),
        }
        if SOURCE in self.manifest.table.column_names:
            found["duplicates_across_sources"] = sum(len(group.sources) > 1 for group in groups)
        if self.label_errors is not None:
            found["label_errors"] = len(self.label_errors.errors)
        return found | {str(problem): len(images) for problem, images in self.problems.items()}


def audit(manifest: Manifest, *, predictions: str | None = None, address: str | None = None) -> Audit:
    """Look for duplicates, leaks, unusable images and label errors.

    Args:
        manifest: of any number of pairs; about 300 bytes of memory are held per image.
        predictions: out-of-fold predictions; see :mod:`derm_ray.audit.label_errors`.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.

    Raises:
        ManifestError: the manifest breaks its rules, apart from groups in several splits.
        ConfigError: a package or prediction is missing.
        WorkError: the work stopped.
    """
    require_libraries()
    validate(manifest, leaks=True)
    label_errors = find_label_errors(manifest, predictions) if predictions else None
    images = Images.of(manifest)
    with ray_session(address) as session:
        session.require(cpus=1)
        found = fingerprint_all(images.uris)
        problems = problem_images(found, prepared=is_prepared(manifest))
        read = np.asarray(found.digests.any(1))
        chosen, place = distinct(found.digests, read)
        lesions = lesion_codes(manifest, images, place, len(chosen))
        decoded = chosen[~np.isnan(found.measures[chosen, 0])]
        of_decoded = place[decoded]

        def of_one_lesion(first: Indices, second: Indices) -> Mask:
            one, other = lesions[of_decoded[first]], lesions[of_decoded[second]]
            return np.asarray((one == other) & (one >= 0))

        pairs = near_duplicates([images.uris[i] for i in decoded], found.hashes[decoded], of_one_lesion)
    groups = duplicate_groups(manifest, images, place, of_decoded[pairs.first], of_decoded[pairs.second])
    return Audit(
        manifest,
        summarize(manifest),
        images,
        found,
        groups,
        list(groups_in_several_splits(manifest)),
        problems,
        label_errors,
    )


def require_libraries() -> None:
    """Import what only the audit needs.

    Raises:
        ConfigError: something is missing.
    """
    for module, package in _LIBRARIES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"derm-ray data audit needs the package {package}: pip install 'derm-ray[audit]'"
            ) from error
