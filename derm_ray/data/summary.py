"""Summary of a manifest."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from derm_ray.data.manifest import SCHEMA, Manifest
from derm_ray.domain import LabelSet, Split
from derm_ray.errors import counted

FEW_LESIONS = 5
"""Below this many lesions of a class, what is learned or measured of it is mostly chance."""


@dataclass(frozen=True)
class ManifestSummary:
    """Counts over a manifest's rows.

    Attributes:
        pairs, lesions, patients: distinct counts; ``patients`` is 0 where no patient is known.
        modalities: ``both``, ``clinical``, ``dermoscopy`` -> pairs.
        diagnoses: diagnosis -> split (or ``unsplit``) -> pairs, by falling total.
        sexes, sites, skin_tones: value -> pairs.
        age: (minimum, median, maximum), or ``None`` where no age is known.
        missing: known column -> pairs without a value; those that have one everywhere are left out.
        missing_words: column -> word -> pairs for which it was read as missing.
    """

    pairs: int
    lesions: int
    patients: int
    modalities: dict[str, int]
    diagnoses: dict[str, dict[str, int]]
    sexes: dict[str, int]
    sites: dict[str, int]
    skin_tones: dict[str, int]
    age: tuple[float, float, float] | None
    missing: dict[str, int]
    missing_words: dict[str, dict[str, int]]

    def text(self) -> str:
        """Return the counts as a table for a terminal."""
        parts = [*Split, "unsplit"]
        used = [part for part in parts if any(part in row for row in self.diagnoses.values())]
        width = max([len(name) for name in self.diagnoses] + [9])
        patients = counted(self.patients, "patient") if self.patients else "no patient ids: splits are by lesion"
        if self.patients and (unknown := self.missing.get("patient_id")):
            patients += f", {counted(unknown, 'pair')} without a patient id (split by lesion)"
        lines = [
            f"{counted(self.pairs, 'pair')}, {counted(self.lesions, 'lesion')}, {patients}",
            "images      " + _inline(self.modalities),
            "sex         " + _inline(self.sexes),
            "site        " + _inline(self.sites),
            "skin tone   " + _inline(self.skin_tones),
        ]
        if self.age:
            lines.append("age         {:g} to {:g} years, median {:g}".format(*(self.age[i] for i in (0, 2, 1))))
        lines += self.missing_lines()
        lines += ["", f"{'diagnosis':<{width}} {'all':>6}" + "".join(f" {part:>7}" for part in used)]
        for name, row in self.diagnoses.items():
            cells = "".join(f" {row.get(part, 0):>7}" for part in used)
            lines.append(f"{name:<{width}} {sum(row.values()):>6}{cells}")
        return "\n".join(lines)

    def missing_lines(self) -> list[str]:
        """Return the missing values of columns that are not empty, and the words among them, as lines."""
        named = [name for name, count in self.missing.items() if count < self.pairs or name in self.missing_words]
        lines = ["missing     " + _inline({name: self.missing[name] for name in named})] if named else []
        words = (f"{name} {_inline(words)}" for name, words in self.missing_words.items())
        return lines + [f"  read as missing: {line}" for line in words]


def summarize(manifest: Manifest) -> ManifestSummary:
    """Summarize a manifest."""
    columns = {name: manifest.table[name].to_pylist() for name in manifest.table.column_names}
    modalities = Counter(
        "both" if clinical and dermoscopy else "clinical" if clinical else "dermoscopy" if dermoscopy else "none"
        for clinical, dermoscopy in zip(columns["clinical_uri"], columns["dermoscopy_uri"], strict=True)
    )
    totals = Counter(v or "(none)" for v in columns["diagnosis"])
    diagnoses = {name: Counter[str]() for name, _ in totals.most_common()}
    for diagnosis, split in zip(columns["diagnosis"], columns["split"], strict=True):
        diagnoses[diagnosis or "(none)"][split or "unsplit"] += 1
    tones = [
        f"{scale} {tone}" if tone is not None else None
        for scale, tone in zip(columns["skin_tone_scale"], columns["skin_tone"], strict=True)
    ]
    ages = sorted(v for v in columns["age"] if v is not None)
    return ManifestSummary(
        pairs=len(manifest),
        lesions=len(set(columns["lesion_id"])),
        patients=len({v for v in columns["patient_id"] if v is not None}),
        modalities=dict(modalities),
        diagnoses={name: dict(row) for name, row in diagnoses.items()},
        sexes=_count(columns["sex"]),
        sites=_count(columns["site"]),
        skin_tones=dict(sorted(_count(tones).items())),
        age=(ages[0], median(ages), ages[-1]) if ages else None,
        missing={name: count for name in SCHEMA.names if (count := manifest.table[name].null_count)},
        missing_words={name: dict(words) for name, words in manifest.missing_words.items()},
    )


def few_lesions(manifest: Manifest, label_set: LabelSet, split: Split) -> str | None:
    """Return a warning that names the classes with fewer than :data:`FEW_LESIONS` lesions in a split, if there are any.

    Args:
        manifest: its diagnoses are classes of ``label_set``.
        label_set: the classes.
        split: the part that is looked at.
    """
    chosen = manifest.select(split)
    lesions: dict[str | None, set[str | None]] = defaultdict(set)
    for diagnosis, lesion in zip(chosen.column("diagnosis"), chosen.column("lesion_id"), strict=True):
        lesions[diagnosis].add(lesion)
    sizes = {name: len(lesions[name]) for name in label_set.class_names}
    return few_warning(str(split), sizes, len(set(chosen.column("lesion_id"))))


def few_warning(where: str, sizes: Mapping[str, int], lesions: int) -> str | None:
    """Return the warning of :func:`few_lesions` for the number of lesions of each class, and of all, somewhere."""
    none = ", ".join(name for name, size in sizes.items() if not size)
    few = ", ".join(f"{name} ({size})" for name, size in sizes.items() if 0 < size < FEW_LESIONS)
    if not none and not few:
        return None
    named = [f"none of {none}"] * bool(none) + [f"fewer than {FEW_LESIONS} of {few}"] * bool(few)
    total = counted(lesions, "lesion")
    return f"{where} has {total}: {'; '.join(named)}. What is learned or measured of so few is mostly chance."


def _count(values: list[str | None]) -> dict[str, int]:
    return dict(Counter(v if v is not None else "unknown" for v in values).most_common())


def _inline(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
