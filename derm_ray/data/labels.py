"""A manifest's diagnoses as classes of a label set."""

from collections import Counter
from collections.abc import Collection, Iterator

from derm_ray.data.manifest import Manifest
from derm_ray.diagnoses import decided_class, find, possible_classes
from derm_ray.domain import LabelSet, Split
from derm_ray.errors import counted

_NAMED = 6
"""Diagnoses that a warning names."""


def collapse(manifest: Manifest, label_set: LabelSet, coarse: Collection[Split] = ()) -> Manifest:
    """Map the diagnoses to the classes of a label set, without the pairs that are outside it.

    Args:
        manifest: with diagnoses of :mod:`derm_ray.diagnoses`; unknown ones are kept, for
            :func:`derm_ray.data.validation.validate` to report.
        label_set: the classes.
        coarse: splits whose coarse diagnoses are kept, as they are; elsewhere these pairs are left out as well.
    """
    before, splits = manifest.column("diagnosis"), manifest.column("split")
    after = [decided_class(name, label_set) or name if name is not None else None for name in before]
    known = {name: _is_known(name, label_set) for name in set(after) if name is not None}
    kept = [
        name is None
        or not known[name]
        or name in label_set.class_names
        or (split in coarse and bool(possible_classes(name, label_set)))
        for name, split in zip(after, splits, strict=True)
    ]
    changed = manifest if after == before else manifest.with_column("diagnosis", after)
    return changed if all(kept) else changed.where(kept)


def decided(manifest: Manifest, label_set: LabelSet) -> Manifest:
    """Return a manifest of :func:`collapse` whose coarse diagnoses are empty."""
    names = [name if name in label_set.class_names else None for name in manifest.column("diagnosis")]
    return manifest.with_column("diagnosis", names)


def left_out(manifest: Manifest, label_set: LabelSet, split: Split) -> Iterator[str]:
    """Yield a sentence on the pairs of a split that are outside a detailed label set, and on those that are coarse."""
    outside: Counter[str] = Counter()
    coarse: Counter[str] = Counter()
    for name in manifest.select(split).column("diagnosis"):
        if name is None or decided_class(name, label_set) is not None or not _is_known(name, label_set):
            continue
        (coarse if possible_classes(name, label_set) else outside)[name] += 1
    if outside and not label_set.collapses:
        yield f"{split}: {_pairs(outside)} outside {label_set.name}, and left out: {_named(outside)}."
    if coarse:
        what = "learned as one of several classes" if split is Split.TRAIN else "left out"
        yield f"{split}: {_pairs(coarse)} too coarse to be one class of {label_set.name}, and {what}: {_named(coarse)}."


def _is_known(name: str, label_set: LabelSet) -> bool:
    return name in label_set.class_names or name in label_set.collapses or find(name) is not None


def _pairs(counts: Counter[str]) -> str:
    return f"{counted(counts.total(), 'pair')} {'is' if counts.total() == 1 else 'are'}"


def _named(counts: Counter[str]) -> str:
    named = ", ".join(f"{name} ({count})" for name, count in counts.most_common(_NAMED))
    return named + (f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else "")
