"""Assigning lesions to train, val and test."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from derm_ray.data.manifest import DUPLICATE_GROUP, SOURCE, Manifest
from derm_ray.domain import Split
from derm_ray.errors import ConfigError

TEST_FRACTION = 0.3
VAL_FRACTION = 0.15
MIN_GROUPS = 3
_GROUPS = "patients (lesions, where the patient is unknown)"


@dataclass(frozen=True)
class SplitResult:
    """A manifest with its ``split`` column filled, and warnings."""

    manifest: Manifest
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class FoldResult:
    """The fold of each row of train and val, from 1, and 0 of other rows; and warnings."""

    of_row: tuple[int, ...]
    warnings: tuple[str, ...]


def split_manifest(manifest: Manifest, seed: int = 0, *, val_fraction: float = VAL_FRACTION) -> SplitResult:
    """Split 7:3 into train and test by patient (lesion where unknown), then take 15% of train as val.

    Lesions that share a patient, pairs that share a lesion, and rows of a ``duplicate_group`` stay together. The draw
    is stratified by diagnosis and, where there is a column ``source``, by that; a diagnosis with fewer than three
    groups goes to train, and one with a few may miss val or test, with a warning.
    The result depends on the seed and the set of rows, not on their order.
    Source: Ge et al. 2017, section 3 (7:3); val is ours, for checkpoint choice and calibration.
    """
    groups = _connected_groups(manifest)
    by_diagnosis: dict[str, list[str]] = defaultdict(list)
    members: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(groups):
        members[name].append(row)
    for name, rows in members.items():
        by_diagnosis[_main_diagnosis(manifest, rows)].append(name)

    generator = np.random.default_rng(seed)
    assigned: dict[str, Split] = {}
    warnings: list[str] = []
    for diagnosis, stratum in _strata(manifest, by_diagnosis, members):
        names = sorted(stratum)
        if len(names) < MIN_GROUPS:
            assigned.update(dict.fromkeys(names, Split.TRAIN))
            warnings.append(
                f"{diagnosis or 'no diagnosis'}: only {len(names)} of {MIN_GROUPS} patients needed (lesions where the "
                "patient is unknown), all in train; val and test have none of this class."
            )
            continue
        shuffled = [names[i] for i in generator.permutation(len(names))]
        tests = _draw(len(shuffled), TEST_FRACTION, generator)
        vals = _draw(len(shuffled) - tests, val_fraction, generator)
        for index, name in enumerate(shuffled):
            part = Split.TEST if index < tests else Split.VAL if index < tests + vals else Split.TRAIN
            assigned[name] = part
    empty = [part for part in Split if part not in assigned.values()]
    warnings += [f"split {part} is empty: too few lesions. Add some, or fill the column yourself." for part in empty]
    found = manifest.with_column("split", [assigned[name] for name in groups])
    enough = [name for name, names in sorted(by_diagnosis.items()) if name and len(names) >= MIN_GROUPS]
    for part in Split:
        there = set(found.select(part).column("diagnosis"))
        if part not in empty and (absent := [name for name in enough if name not in there]):
            warnings.append(
                f"split {part} has no lesion of {', '.join(absent)}. Add lesions, or fill the column yourself."
            )
    return SplitResult(found, tuple(warnings))


def assign_folds(manifest: Manifest, folds: int, seed: int = 0) -> FoldResult:
    """Assign the rows of train and val to folds.

    Groups stay together as in :func:`split_manifest`, and the folds are stratified by diagnosis: their numbers of
    groups of a diagnosis differ by one at most.

    Raises:
        ConfigError: there are fewer groups than folds, or one fold has all groups of a diagnosis, which no run could
            both learn and predict; all are named.
    """
    splits, diagnoses = manifest.column("split"), manifest.column("diagnosis")
    members: dict[str, list[int]] = defaultdict(list)
    groups_of: dict[str, set[str]] = defaultdict(set)
    for row, name in enumerate(_connected_groups(manifest)):
        if splits[row] in (Split.TRAIN, Split.VAL):
            members[name].append(row)
            groups_of[diagnoses[row] or ""].add(name)
    if len(members) < folds:
        raise ConfigError(
            f"{manifest.uri}: train and val have {len(members)} {_GROUPS}, too few for {folds} folds. Use a smaller "
            "--folds, or add lesions."
        )
    by_diagnosis: dict[str, list[str]] = defaultdict(list)
    for name, rows in members.items():
        by_diagnosis[_main_diagnosis(manifest, rows)].append(name)
    generator = np.random.default_rng(seed)
    found, given = [0] * len(manifest), 0
    for diagnosis in sorted(by_diagnosis):
        names = sorted(by_diagnosis[diagnosis])
        for index in generator.permutation(len(names)):
            for row in members[names[index]]:
                found[row] = given % folds + 1
            given += 1  # goes on with the next diagnosis, so that the folds are of one size
    folds_of: dict[str, set[int]] = defaultdict(set)
    for label, fold in zip(diagnoses, found, strict=True):
        if fold and label is not None:
            folds_of[label].add(fold)
    if single := {name: len(groups_of[name]) for name in sorted(folds_of) if len(folds_of[name]) == 1}:
        another = " Another seed may divide those with more than one." if max(single.values()) > 1 else ""
        raise ConfigError(
            f"{manifest.uri}: a single fold has all {_GROUPS} of {_counts(single)}, so that its run would learn from "
            "none. Use a label set that joins these diagnoses with others or excludes them, or drop their "
            f"lesions.{another}"
        )
    few = {name: len(groups_of[name]) for name in sorted(folds_of) if len(folds_of[name]) < folds}
    warning = (
        f"some of the {folds} folds have none to validate on of {_counts(few)}, which have fewer {_GROUPS} than there "
        "are folds. What is measured of so few is mostly chance."
    )
    return FoldResult(tuple(found), (warning,) if few else ())


def _counts(groups: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in groups.items())


def _draw(count: int, fraction: float, generator: np.random.Generator) -> int:
    """Round ``count * fraction`` up or down at random, so that small classes add up to the fraction."""
    exact = count * fraction
    return int(exact) + int(generator.random() < exact % 1)


def _connected_groups(manifest: Manifest) -> list[str]:
    """Return for each row the name of its group: the smallest id among all that hang together."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            parents[key] = key = parents[parents[key]]
        return key

    lesions = [f"lesion:{v}" for v in manifest.column("lesion_id")]
    patients = [f"patient:{v}" if v is not None else None for v in manifest.column("patient_id")]
    same = manifest.column(DUPLICATE_GROUP) if DUPLICATE_GROUP in manifest.table.column_names else [None] * len(lesions)
    images = [f"same:{v}" if v is not None else None for v in same]
    for lesion, patient, image in zip(lesions, patients, images, strict=True):
        for other in (patient, image):
            first, second = root(lesion), root(other or lesion)
            parents[max(first, second)] = min(first, second)
    return [root(lesion) for lesion in lesions]


def _strata(
    manifest: Manifest, by_diagnosis: Mapping[str, Sequence[str]], members: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield diagnoses and their groups by source; those of a source with fewer than three are with the largest one."""
    sources = manifest.column(SOURCE) if SOURCE in manifest.table.column_names else [None] * len(manifest)
    for diagnosis in sorted(by_diagnosis):
        strata: dict[str, list[str]] = defaultdict(list)
        for name in by_diagnosis[diagnosis]:
            strata[sources[members[name][0]] or ""].append(name)
        largest = max(sorted(strata), key=lambda source: len(strata[source]))
        for source in sorted(strata):
            if source != largest and len(strata[source]) < MIN_GROUPS:
                strata[largest] += strata.pop(source)
        for source in sorted(strata):
            yield diagnosis, strata[source]


def _main_diagnosis(manifest: Manifest, rows: list[int]) -> str:
    """Return the group's most frequent diagnosis, the first by name where several are."""
    diagnoses = manifest.column("diagnosis")
    counts = Counter(diagnoses[row] or "" for row in rows)
    return min(counts, key=lambda name: (-counts[name], name))
