"""Manifest rules, checked before any work starts."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from derm_ray import storage
from derm_ray.data.manifest import DUPLICATE_GROUP, URI_COLUMNS, Manifest
from derm_ray.data.normalization import has_unseen
from derm_ray.diagnoses import find, possible_classes
from derm_ray.domain import LabelSet, LesionPair, Modality, Split
from derm_ray.errors import ManifestError, counted, unknown_name

GROUP_COLUMNS = ("lesion_id", "patient_id")
MAX_ROWS = 20
"""Row numbers of one message."""
AGES = (0, 120)
SEXES = ("female", "male", "other")
SKIN_TONE_SCALES = {"milk": (0, 5), "fitzpatrick": (1, 6), "monk": (1, 10)}


@dataclass(frozen=True)
class GroupLeak:
    """A lesion or patient in several splits: the column of its id, the id, its rows from 0, and their splits."""

    column: str
    group: str
    rows: tuple[int, ...]
    splits: tuple[str, ...]


def validate(
    manifest: Manifest,
    label_set: LabelSet | None = None,
    *,
    labeled: Collection[str | None] = (),
    complete: Collection[str | None] = (),
    purpose: str = "training",
    leaks: bool = False,
) -> None:
    """Check a manifest's rules.

    Args:
        manifest: what to check, whole: a group in two splits shows only there.
        label_set: if given, every diagnosis present must be able to be a class of it.
        labeled: values of ``split`` whose rows must have a diagnosis; every row has at least one image.
        complete: values of ``split`` whose rows must have both images and a diagnosis.
        purpose: what needs them, for messages.
        leaks: groups may be in several splits.

    Raises:
        ManifestError: one line for every problem, with row numbers counted from 1 (neither the header nor empty rows
            counted).
    """
    splits = manifest.column("split")
    problems = [] if len(manifest) else ["no rows"]
    problems += [
        *row_problems(manifest, manifest.pairs()),
        *_repetitions(manifest),
        *_incomplete(manifest, [split in complete for split in splits], purpose),
    ]
    if label_set is not None:
        needed = [split in complete or split in labeled for split in splits]
        problems += _diagnoses(manifest, label_set, needed, purpose)
    problems += [*_unknown(manifest.column("split"), "split", tuple(Split)), *attribute_problems(manifest)]
    if not leaks:
        problems += [
            f"{_rows(leak.rows)}: {leak.column} {leak.group!r} is in several splits ({', '.join(leak.splits)})"
            for leak in groups_in_several_splits(manifest)
        ]
    if problems:
        raise ManifestError(manifest.uri, problems)


def _rows(indices: Iterable[int]) -> str:
    numbers = [str(i + 1) for i in indices]
    more = f" and {len(numbers) - MAX_ROWS:,} more" if len(numbers) > MAX_ROWS else ""
    return ("row " if len(numbers) == 1 else "rows ") + ", ".join(numbers[:MAX_ROWS]) + more


def _positions(values: Iterable[str | None], first_row: int = 0) -> dict[str, list[int]]:
    """Return the rows, counted from 0, at which each value stands."""
    found: dict[str, list[int]] = defaultdict(list)
    for row, value in enumerate(values, first_row):
        if value is not None:
            found[value].append(row)
    return found


def row_problems(manifest: Manifest, pairs: list[LesionPair], first_row: int = 0) -> Iterator[str]:
    """Yield problems of single rows: empty ids, invisible characters, no image, or the same image twice.

    Args:
        manifest: a whole one, or a piece.
        pairs: its rows.
        first_row: the piece's first row in the whole, counted from 0.
    """
    rows = zip(pairs, manifest.column("patient_id"), strict=True)
    for row, (pair, patient) in enumerate(rows, first_row):
        if not pair.pair_id or not pair.lesion_id:
            yield f"{_rows([row])}: pair_id and lesion_id must not be empty (nor NA, None, nan, null or unknown)"
        for name, value in (("pair_id", pair.pair_id), ("lesion_id", pair.lesion_id), ("patient_id", patient or "")):
            if has_unseen(value):
                yield f"{_rows([row])}: {name} {value!a} contains invisible characters"
        clinical, dermoscopy = (pair.uris(modality) for modality in Modality)
        if not clinical and not dermoscopy:
            yield f"{_rows([row])}: neither clinical_uri nor dermoscopy_uri is given"
        for uri in clinical:
            if uri in dermoscopy:
                yield f"{_rows([row])}: clinical_uri and dermoscopy_uri are the same file, {ascii(uri)[1:-1]}"
        for name, uris in zip(URI_COLUMNS, (clinical, dermoscopy), strict=True):
            for uri in uris:
                if storage.is_windows_path(uri):
                    yield f"{_rows([row])}: {name} {uri} is a Windows path; write it relative to the manifest, with '/'"
            if twice := next((uri for uri in uris if uris.count(uri) > 1), None):
                yield f"{_rows([row])}: {name} names {ascii(twice)[1:-1]} more than once"


def _repetitions(manifest: Manifest) -> Iterator[str]:
    for pair_id, rows in _positions(manifest.column("pair_id")).items():
        if len(rows) > 1:
            yield (
                f"{_rows(rows)}: pair_id {pair_id!r} occurs {len(rows)} times; it must be unique (leading and "
                "trailing blanks and Unicode forms are ignored). Without a column pair_id, lesion_id is used"
            )


def _incomplete(manifest: Manifest, needed: list[bool], purpose: str) -> Iterator[str]:
    for row, (clinical, dermoscopy) in enumerate(zip(*(manifest.column(name) for name in URI_COLUMNS), strict=True)):
        if needed[row] and (clinical is None) != (dermoscopy is None):
            absent = "clinical_uri" if clinical is None else "dermoscopy_uri"
            yield f"{_rows([row])}: {absent} is empty; {purpose} needs both images"


def _unknown(values: list[str | None], kind: str, known: Sequence[str], first_row: int = 0) -> Iterator[str]:
    """Yield a line for every value that is not known; the first one lists what is."""
    unknown = {value: rows for value, rows in _positions(values, first_row).items() if value not in known}
    for number, (value, rows) in enumerate(unknown.items()):
        text = unknown_name(kind, value, known)
        yield f"{_rows(rows)}: {text.partition(' Known: ')[0] if number else text}"


def _diagnoses(manifest: Manifest, label_set: LabelSet, needed: list[bool], purpose: str) -> Iterator[str]:
    diagnoses = manifest.column("diagnosis")
    for row, diagnosis in enumerate(diagnoses):
        if diagnosis is None and needed[row]:
            yield f"{_rows([row])}: diagnosis is empty; {purpose} needs one"
    unclear = [name if name and not possible_classes(name, label_set) else None for name in diagnoses]
    outside = {name: rows for name, rows in _positions(unclear).items() if find(name) is not None}
    for name, rows in outside.items():
        yield f"{_rows(rows)}: diagnosis {name!r} is outside label set {label_set.name}; leave these rows out"
    unknown = [name if name not in outside else None for name in unclear]
    yield from _unknown(unknown, f"{label_set.name} diagnosis", label_set.class_names)


def groups_in_several_splits(manifest: Manifest) -> Iterator[GroupLeak]:
    """Yield the lesions, patients and duplicate groups whose rows are in more than one split."""
    splits = manifest.column("split")
    for column in (*GROUP_COLUMNS, DUPLICATE_GROUP):
        groups = manifest.column(column) if column in manifest.table.column_names else []
        for group, rows in _positions(groups).items():
            names = {split for row in rows if (split := splits[row]) is not None}
            if len(names) > 1:
                yield GroupLeak(column, group, tuple(rows), tuple(sorted(names)))


def attribute_problems(manifest: Manifest, first_row: int = 0) -> Iterator[str]:
    """Yield problems of patient data: ages, sexes and skin tones that do not exist; see :func:`row_problems`."""
    scales = manifest.column("skin_tone_scale")
    yield from _unknown(manifest.column("sex"), "sex", SEXES, first_row)
    yield from _unknown(scales, "skin_tone_scale", tuple(SKIN_TONE_SCALES), first_row)
    ages, tones = (manifest.table[name].to_pylist() for name in ("age", "skin_tone"))
    for row, (age, tone, scale) in enumerate(zip(ages, tones, scales, strict=True), first_row):
        if age is not None and not AGES[0] <= age <= AGES[1]:
            yield f"{_rows([row])}: age {age:g} is outside {AGES[0]}..{AGES[1]} years"
        if tone is not None and scale is None:
            yield f"{_rows([row])}: skin_tone needs a skin_tone_scale ({', '.join(SKIN_TONE_SCALES)})"
        elif tone is not None and scale in SKIN_TONE_SCALES:
            low, high = SKIN_TONE_SCALES[scale]
            if not low <= tone <= high:
                yield f"{_rows([row])}: skin_tone {tone} is outside {low}..{high} of the {scale} scale"


def find_warnings(manifest: Manifest) -> Iterator[str]:
    """Yield warnings: ids that are valid but probably not intended, and would affect the split.

    A patient of lesions, or a lesion of pairs, is implausible where it has at least 10 and a tenth of all, or at least
    200, and at least five times as many as the median of the others. Such ids usually mean "unknown".
    Ids look alike if they differ only in case, width, runs of blanks, leading zeros or a trailing ``.0``.
    """
    lesions = manifest.column("lesion_id")
    patients = dict(zip(lesions, manifest.column("patient_id"), strict=True))
    yield from _implausible("patient_id", "lesions", list(patients.values()))
    yield from _implausible("lesion_id", "pairs", lesions)
    for column in GROUP_COLUMNS:
        yield from _look_alikes(column, manifest.column(column))


def _implausible(column: str, things: str, owners: list[str | None]) -> Iterator[str]:
    sizes = {owner: len(rows) for owner, rows in _positions(owners).items()}
    for owner, size in sizes.items():
        if size >= 200 or (size >= 10 and size >= 0.1 * len(owners)):
            others = median([n for name, n in sizes.items() if name != owner] or [0])
            if size >= 5 * others:
                rest = f", the others have {others:g} (median)" if len(sizes) > 1 else ""
                yield (
                    f"{column} {owner!r} has {size} of {len(owners)} {things} ({size / len(owners):.0%}){rest}. If it "
                    "means unknown, leave it empty."
                )


def _look_alikes(column: str, ids: list[str | None]) -> Iterator[str]:
    alike: dict[str, list[str]] = defaultdict(list)
    for value in _positions(ids):
        key = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
        alike[re.sub(r"(?<![\d.])0+(?=\d)|(?<=\d)\.0+$", "", key)].append(value)
    groups = [values for values in alike.values() if len(values) > 1]
    if groups:
        names = " and ".join(map(repr, groups[0]))
        more = f" (and {counted(len(groups) - 1, 'more such group')})" if len(groups) > 1 else ""
        yield f"{column}: {names} look alike{more}, but count as different. If they are the same, use one spelling."
