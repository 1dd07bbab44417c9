"""What diagnoses mean: each covers a part of the ISIC Archive's tree, so that those of any data set can be compared.

A diagnosis is coarse for a label set if it could be one of several classes, or something outside: a naevus for one that
tells compound from dermal naevi. It still says that one of these classes is right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from derm_ray.domain import LABEL_SETS, LabelSet


@dataclass(frozen=True)
class Concept:
    """A diagnosis that manifests may name.

    Attributes:
        name: as manifests write it: a class of a label set, a name of ``diagnoses.yaml``, or one of the ISIC Archive.
        title: for people.
        covers: names in the ISIC Archive's tree, each with all that is below it; empty: in no tree.
        aliases: other spellings, in lower case.
        icd11: its code in ICD-11 MMS.
    """

    name: str
    title: str
    covers: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    icd11: str | None = None


@cache
def isic_tree() -> Mapping[str, tuple[str, ...]]:
    """Return the ISIC Archive's diagnoses: name -> all names from the root to it."""
    from isic_metadata.diagnosis_hierarchical import DiagnosisEnum

    paths = [tuple(diagnosis.value.split(":")) for diagnosis in DiagnosisEnum]
    return {path[-1]: path for path in paths}


@cache
def concepts() -> Mapping[str, Concept]:
    """Return the diagnoses of ``diagnoses.yaml`` by name."""
    import yaml

    table = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {
        name: Concept(name, row["title"], tuple(row["covers"]), tuple(row.get("aliases", ())), row.get("icd11"))
        for name, row in table.items()
    }


@cache
def find(word: str, label_set: LabelSet | None = None) -> Concept | None:
    """Return the diagnosis that a word names, in any case: by name, title or alias; ``None`` if there is none.

    Classes of a label set come first, then ``diagnoses.yaml``, then the ISIC Archive.
    """
    key = word.casefold().strip()
    known = concepts()
    if label_set is not None:
        for one in label_set.diagnoses:
            if key in (one.name, one.title.casefold()):
                return known.get(one.name, Concept(one.name, one.title, ()))
    by_spelling = [c for c in known.values() if key in (c.name, c.title.casefold(), *c.aliases)]
    if by_spelling:
        return next((c for c in by_spelling if c.name == key), by_spelling[0])
    isic = next((name for name in isic_tree() if name.casefold() == key), None)
    return Concept(isic, isic, (isic,)) if isic is not None else None


@cache
def possible_classes(diagnosis: str, label_set: LabelSet) -> tuple[str, ...]:
    """Return the classes of a label set that a diagnosis can be, in class order; none if it is outside, or unknown.

    A place in the tree belongs to the class that covers the nearest one at or above it.
    """
    if diagnosis in label_set.class_names:
        return (diagnosis,)
    if label_set.collapses:
        finer = _possible(diagnosis, _base(label_set))
        collapsed = {label_set.collapses.get(name) for name in finer}
    else:
        collapsed = set(_possible(diagnosis, label_set))
    return tuple(name for name in label_set.class_names if name in collapsed)


@cache
def decided_class(diagnosis: str, label_set: LabelSet) -> str | None:
    """Return the one class that a diagnosis must be; ``None`` if it is outside, or coarse for the label set."""
    if diagnosis in label_set.class_names:
        return diagnosis
    if label_set.collapses:
        finer = _possible(diagnosis, _base(label_set))
        collapsed = {label_set.collapses.get(name) for name in finer}
        return collapsed.pop() if len(collapsed) == 1 else None
    owners = {_owner(place, label_set) for place in _places(diagnosis)}
    return owners.pop() if len(owners) == 1 else None


@cache
def agree(first: str, second: str) -> bool:
    """Return whether two diagnoses can be right at once: they cover a common place of the tree, or are the same."""
    return first == second or not set(_places(first)).isdisjoint(_places(second))


@cache
def covered(diagnosis: str) -> int:
    """Return how many places of the tree a diagnosis covers: the fewer, the finer it is."""
    return len(_places(diagnosis))


def _base(label_set: LabelSet) -> LabelSet:
    """Return the detailed set that a task was made of."""
    return next(s for s in LABEL_SETS.values() if not s.collapses and set(s.class_names) == set(label_set.collapses))


def _possible(diagnosis: str, label_set: LabelSet) -> tuple[str, ...]:
    if diagnosis in label_set.class_names:
        return (diagnosis,)
    owners = {_owner(place, label_set) for place in _places(diagnosis)}
    return tuple(name for name in label_set.class_names if name in owners)


def _places(diagnosis: str) -> tuple[str, ...]:
    """Return all places of the tree that a diagnosis covers."""
    concept = find(diagnosis)
    covered = set(concept.covers) if concept is not None else set()
    return tuple(name for name, path in isic_tree().items() if covered.intersection(path))


def _owner(place: str, label_set: LabelSet) -> str | None:
    """Return the class that a place of the tree belongs to."""
    claims = {place: c.name for d in label_set.diagnoses if (c := concepts().get(d.name)) for place in c.covers}
    return next((claims[name] for name in reversed(isic_tree()[place]) if name in claims), None)
