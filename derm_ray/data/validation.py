"""The manifest's rules, all checked before any work starts."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator

from derm_ray.data.manifest import URI_COLUMNS, Manifest
from derm_ray.errors import ManifestError, unknown_name
from derm_ray.vocabulary import LabelSet, Split

SKIN_TONE_SCALES = {"milk": (0, 5), "fitzpatrick": (1, 6), "monk": (1, 10)}


def validate(manifest: Manifest, label_set: LabelSet | None = None, *, complete: Collection[str | None] = ()) -> None:
    """Check a manifest's rules.

    Args:
        manifest: what to check, whole: a group in two splits shows only there.
        label_set: if given, every diagnosis present must belong to it.
        complete: values of ``split`` whose rows must have both images and a diagnosis.

    Raises:
        ManifestError: one line for every problem, with row numbers counted from 1 (the header not counted).
    """
    problems = list(find_problems(manifest, label_set, complete=complete))
    if problems:
        raise ManifestError(manifest.uri, problems)


def find_problems(
    manifest: Manifest, label_set: LabelSet | None = None, *, complete: Collection[str | None] = ()
) -> Iterator[str]:
    """Yield every broken rule as a line; see :func:`validate`."""
    if len(manifest) == 0:
        yield "no rows"
    yield from row_problems(manifest)
    yield from _repetitions(manifest)
    needed = [split in complete for split in manifest.column("split")]
    yield from _incomplete(manifest, needed)
    if label_set is not None:
        yield from _diagnoses(manifest, label_set, needed)
    yield from _splits(manifest)
    yield from _attributes(manifest)


def _rows(indices: Iterable[int]) -> str:
    numbers = [str(i + 1) for i in indices]
    return ("row " if len(numbers) == 1 else "rows ") + ", ".join(numbers)


def row_problems(manifest: Manifest, first_row: int = 0) -> Iterator[str]:
    """Yield what is wrong with single rows: ids that are empty or hide characters, and no image or one image twice.

    Args:
        manifest: a whole one, or a piece.
        first_row: the piece's first row in the whole, counted from 0.
    """
    for row, pair in enumerate(manifest.pairs(), first_row):
        for name, value in (("pair_id", pair.pair_id), ("lesion_id", pair.lesion_id)):
            if not value:
                yield f"{_rows([row])}: pair_id and lesion_id must not be empty"
                break
            if not value.isprintable():
                yield f"{_rows([row])}: {name} {value!a} holds characters that cannot be seen"
        clinical, dermoscopy = pair.clinical_uri, pair.dermoscopy_uri
        if clinical is None and dermoscopy is None:
            yield f"{_rows([row])}: neither clinical_uri nor dermoscopy_uri is given"
        elif clinical == dermoscopy:
            yield f"{_rows([row])}: clinical_uri and dermoscopy_uri are the same file, {ascii(clinical)[1:-1]}"


def _repetitions(manifest: Manifest) -> Iterator[str]:
    ids = manifest.column("pair_id")
    for pair_id, count in Counter(v for v in ids if v is not None).items():
        if count > 1:
            where = _rows(i for i, v in enumerate(ids) if v == pair_id)
            yield f"{where}: pair_id {pair_id!r} stands {count} times; it must be unique"


def _incomplete(manifest: Manifest, needed: list[bool]) -> Iterator[str]:
    for row, (clinical, dermoscopy) in enumerate(zip(*(manifest.column(name) for name in URI_COLUMNS), strict=True)):
        if needed[row] and (clinical is None) != (dermoscopy is None):
            absent = "clinical_uri" if clinical is None else "dermoscopy_uri"
            yield f"{_rows([row])}: {absent} is empty; training needs both images"


def _diagnoses(manifest: Manifest, label_set: LabelSet, needed: list[bool]) -> Iterator[str]:
    for row, diagnosis in enumerate(manifest.column("diagnosis")):
        if diagnosis is None:
            if needed[row]:
                yield f"{_rows([row])}: diagnosis is empty; training needs one"
        elif diagnosis not in label_set.class_names:
            yield f"{_rows([row])}: " + unknown_name(f"{label_set.name} diagnosis", diagnosis, label_set.class_names)


def _splits(manifest: Manifest) -> Iterator[str]:
    splits = manifest.column("split")
    for row, split in enumerate(splits):
        if split is not None and split not in set(Split):
            yield f"{_rows([row])}: " + unknown_name("split", split, tuple(Split))
    for column in ("lesion_id", "patient_id"):
        found: dict[str, set[str]] = defaultdict(set)
        for group, split in zip(manifest.column(column), splits, strict=True):
            if group is not None and split is not None:
                found[group].add(split)
        for group, names in found.items():
            if len(names) > 1:
                where = _rows(i for i, v in enumerate(manifest.column(column)) if v == group)
                yield f"{where}: {column} {group!r} stands in several splits ({', '.join(sorted(names))})"


def _attributes(manifest: Manifest) -> Iterator[str]:
    columns = (manifest.table[name].to_pylist() for name in ("age_years", "skin_tone", "skin_tone_scale"))
    for row, (age, tone, scale) in enumerate(zip(*columns, strict=True)):
        if age is not None and not 0 <= age <= 130:
            yield f"{_rows([row])}: age_years {age:g} is outside 0..130"
        if scale is not None and scale not in SKIN_TONE_SCALES:
            yield f"{_rows([row])}: " + unknown_name("skin_tone_scale", scale, tuple(SKIN_TONE_SCALES))
        elif tone is not None:
            if scale is None:
                yield f"{_rows([row])}: skin_tone needs a skin_tone_scale ({', '.join(SKIN_TONE_SCALES)})"
            elif not SKIN_TONE_SCALES[scale][0] <= tone <= SKIN_TONE_SCALES[scale][1]:
                low, high = SKIN_TONE_SCALES[scale]
                yield f"{_rows([row])}: skin_tone {tone} is outside {low}..{high} of the {scale} scale"
