"""Patient data in the columns of a manifest: fitting a model's encoding to train, and reading what it uses."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from derm_ray.data.manifest import SCHEMA, Manifest
from derm_ray.data.normalization import convert, not_numbers
from derm_ray.data.patient import CategoryField, NumberField, PatientEncoder
from derm_ray.data.validation import AGES, SKIN_TONE_SCALES, attribute_problems
from derm_ray.domain import LesionPair, PatientValues
from derm_ray.errors import ConfigError, ManifestError, counted, unknown_name

logger = logging.getLogger(__name__)

STANDARD = ("age", "sex", "site", "skin_tone")
"""Known columns of patient data; any further column of numbers can be one as well."""
CATEGORIES = ("sex", "site")
MIN_SEEN = 5
"""Pairs of train that a category needs. A rarer one counts as missing: training teaches that, but not ``other``."""


class PatientReader:
    """Reads the patient data of a manifest, whole or piece by piece, and counts what a model cannot use."""

    def __init__(self, encoder: PatientEncoder) -> None:
        self._encoder = encoder
        self._given: set[str] = set()
        self._unknown: dict[str, Counter[str]] = {}

    def read(self, manifest: Manifest, first_row: int = 0) -> tuple[list[PatientValues], list[str]]:
        """Return the values of each row, and the problems; ``first_row`` is a piece's first row, from 0."""
        columns, problems = _read_columns(manifest, self._encoder.names, first_row)
        rows: list[dict[str, float | str]] = [{} for _ in range(len(manifest))]
        for field in self._encoder.fields:
            values = columns.get(field.name, [None] * len(rows))
            for row, value in zip(rows, values, strict=True):
                if value is None:
                    continue
                if isinstance(field, CategoryField) and value not in field.values:
                    self._unknown.setdefault(field.name, Counter())[str(value)] += 1
                    continue
                row[field.name] = value
                self._given.add(field.name)
            if isinstance(field, NumberField) and field.scale:
                scales = zip(values, manifest.column("skin_tone_scale"), strict=True)
                problems += [
                    f"row {number}: {field.name} is on the {scale} scale, the model's is {field.scale}. Convert it, or "
                    "leave it empty"
                    for number, (value, scale) in enumerate(scales, first_row + 1)
                    if value is not None and scale not in (None, field.scale)
                ]
        return list(rows), problems

    def warnings(self) -> list[str]:
        """Return warnings about all that was read."""
        lines = []
        if absent := [name for name in self._encoder.names if name not in self._given]:
            lines.append(f"patient data: no lesion has {', '.join(absent)}, which the model uses; it counts as missing")
        for name, counts in self._unknown.items():
            shown = ", ".join(f"{value!a} ({count})" for value, count in counts.most_common(5))
            lines.append(
                f"patient data: the model does not know {counted(counts.total(), 'value')} of {name}, counted as "
                f"missing: {shown}"
            )
        return lines


def patient_pairs(
    manifest: Manifest, encoder: PatientEncoder | None, whole: Manifest | None = None
) -> list[LesionPair]:
    """Return the pairs of a manifest with the patient data that a model uses, and log warnings about it.

    Args:
        manifest: valid (:func:`derm_ray.data.validation.validate`).
        encoder: of the model; ``None``: it uses none.
        whole: the manifest that it is a part of, for row numbers in messages.

    Raises:
        ManifestError: values cannot be used; all are listed.
    """
    if encoder is None:
        return manifest.pairs()
    if problems := PatientReader(encoder).read(whole or manifest)[1]:
        raise ManifestError(manifest.uri, problems)
    reader = PatientReader(encoder)
    pairs = manifest.pairs(reader.read(manifest)[0])
    for line in reader.warnings():
        logger.warning("%s: %s", manifest.uri, line)
    return pairs


def fit_encoder(names: Sequence[str], manifest: Manifest, train: Manifest) -> PatientEncoder:
    """Return the encoding of some columns of a manifest: scaling and categories are those of its part ``train``.

    Raises:
        ConfigError: a column is absent, is not patient data, or has too few values in train.
        ManifestError: values cannot be used; all are listed.
    """
    further = [name for name in manifest.table.column_names if name not in SCHEMA.names]
    columns = (*STANDARD, *(name for name in further if name in names or _is_numeric(manifest.table[name])))
    for name in names:
        if name in SCHEMA.names and name not in STANDARD:
            raise ConfigError(
                f"patient_data: column {name!r} is not patient data. Use {', '.join(STANDARD)}, or further columns of "
                "numbers."
            )
        if name not in columns:
            raise ConfigError(f"{manifest.uri}: {unknown_name('patient_data column', name, columns)}")
    if problems := [*attribute_problems(manifest), *_read_columns(manifest, names)[1]]:
        raise ManifestError(manifest.uri, problems)
    values, _ = _read_columns(train, names)
    return PatientEncoder(tuple(_fit(name, values[name], train) for name in names))


def _is_numeric(column: pa.ChunkedArray) -> bool:
    try:
        return bool(convert(column, pa.float64())[0].null_count < len(column))
    except (ValueError, pa.ArrowException):
        return False


def _fit(name: str, column: list[float | str | None], train: Manifest) -> NumberField | CategoryField:
    values = [value for value in column if value is not None]
    lacks = "the same value everywhere" if values else "no value"
    refusal = ConfigError(
        f"{train.uri}: patient_data column {name!r} has {lacks} in split train. Fill it in, or leave it out of "
        "patient_data."
    )
    if name in CATEGORIES:
        counts = Counter(map(str, values))
        known = tuple(sorted(value for value, count in counts.items() if count >= MIN_SEEN))
        if values and not known:
            raise ConfigError(
                f"{train.uri}: patient_data column {name!r} has no value that {MIN_SEEN} pairs of split train share. "
                "Leave it out of patient_data."
            )
        if not known:
            raise refusal
        return CategoryField(name, known)
    if len(set(values)) < 2:
        raise refusal
    numbers = np.array(values, np.float64)
    mean, deviation = float(numbers.mean()), float(numbers.std())
    if name == "age":
        return NumberField(name, mean, deviation, *AGES)
    if name != "skin_tone":
        return NumberField(name, mean, deviation)
    tones = zip(column, train.column("skin_tone_scale"), strict=True)
    scales = sorted({str(scale) for value, scale in tones if value is not None})
    if len(scales) > 1:
        raise ConfigError(
            f"{train.uri}: skin_tone is on several scales ({', '.join(scales)}) in split train. Convert it to one, or "
            "leave it out of patient_data."
        )
    return NumberField(name, mean, deviation, *SKIN_TONE_SCALES[scales[0]], scales[0])


def _read_columns(
    manifest: Manifest, names: Sequence[str], first_row: int = 0
) -> tuple[dict[str, list[float | str | None]], list[str]]:
    """Return the columns that are there and can be used, and the problems of the others."""
    found: dict[str, list[float | str | None]] = {}
    problems: list[str] = []
    for name in names:
        if name not in manifest.table.column_names:
            continue
        column = manifest.table[name]
        if name not in CATEGORIES:
            try:
                column, _ = convert(column, pa.float64())
            except (ValueError, pa.ArrowException) as error:
                wrong = [
                    f"row {first_row + row}: column {name!r}: {why}" for row, why in not_numbers(column, pa.float64())
                ]
                if 1 < len(wrong) == len(column) - convert(column, pa.string())[0].null_count:
                    wrong = [f"{wrong[0]}, nor is any other of its values. Give a column of numbers"]
                problems += wrong or [f"column {name!r} of type {column.type}: {error}"]
                continue
            infinite = pc.is_inf(column).to_pylist()
            problems += [
                f"row {number}: column {name!r} is infinite"
                for number, is_inf in enumerate(infinite, first_row + 1)
                if is_inf
            ]
        found[name] = column.to_pylist()
    return found, problems
