"""Patient data: what a model uses beside the images, and its encoding, sealed in the bundle."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from derm_ray.data.normalization import normalize
from derm_ray.domain import PatientValues
from derm_ray.errors import ConfigError, unknown_name

MAX_DEVIATIONS = 5.0
_PLAIN = re.compile(r"[A-Za-z]\w{0,23}", re.ASCII)

Vectors = npt.NDArray[np.float32]
"""Encoded patient data (B, F)."""


@dataclass(frozen=True)
class NumberField:
    """A column of numbers: its distance from train's mean in standard deviations, cut at 5, and 1 for "given".

    Attributes:
        name: of the column.
        mean, deviation: over the values of train.
        low, high: range that is accepted; ``None`` for any.
        scale: of skin tones, a ``skin_tone_scale``.
    """

    name: str
    mean: float
    deviation: float
    low: float | None = None
    high: float | None = None
    scale: str | None = None

    @property
    def width(self) -> int:
        """Length in the vector."""
        return 2

    def encode(self, value: float | str) -> list[float]:
        """Return its part of the vector."""
        distance = (float(value) - self.mean) / self.deviation
        return [min(max(distance, -MAX_DEVIATIONS), MAX_DEVIATIONS), 1.0]

    def check(self, value: object) -> float:
        """Return a value from outside as a number, which may be text; a ``ValueError`` says what is expected."""
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        inside = self.low is None or self.high is None or self.low <= number <= self.high
        if not (inside and math.isfinite(number)):
            raise ValueError(f"expected {self}")
        return number

    def __str__(self) -> str:
        text = "a number" + (f" from {self.low:g} to {self.high:g}" if self.low is not None else "")
        return text + (f" of the {self.scale} scale" if self.scale else "")


@dataclass(frozen=True)
class CategoryField:
    """A column of categories: 1 for the value given, of those that train knows, and 1 for "given"."""

    name: str
    values: tuple[str, ...]

    @property
    def width(self) -> int:
        """Length in the vector."""
        return len(self.values) + 1

    def encode(self, value: float | str) -> list[float]:
        """Return its part of the vector."""
        return [*(float(value == known) for known in self.values), 1.0]

    def check(self, value: object) -> str:
        """Return a value from outside in its one form; a ``ValueError`` says what is expected."""
        text = normalize(value).lower() if isinstance(value, str) else ""
        if text not in self.values:
            raise ValueError(f"expected {self}")
        return text

    def __str__(self) -> str:
        return f"one of {', '.join(self.values)}"


@dataclass(frozen=True)
class PatientEncoder:
    """Turns patient data into vectors: every field's part in order, zeros for what is missing or not known."""

    fields: tuple[NumberField | CategoryField, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The fields' names, in order."""
        return tuple(field.name for field in self.fields)

    @property
    def spans(self) -> dict[str, slice]:
        """Where each field's part is in the vector."""
        edges = accumulate((field.width for field in self.fields), initial=0)
        return {name: slice(*span) for name, span in zip(self.names, pairwise(edges), strict=True)}

    @property
    def width(self) -> int:
        """Length of the vector."""
        return sum(field.width for field in self.fields)

    def encode(self, patients: Sequence[PatientValues]) -> Vectors:
        """Return the vectors (B, width) of lesions; fields that are not of this encoder are ignored."""
        vectors = np.zeros((len(patients), self.width), np.float32)
        for field, span in zip(self.fields, self.spans.values(), strict=True):
            for row, values in enumerate(patients):
                value = values.get(field.name)
                if value is not None and (isinstance(field, NumberField) or value in field.values):
                    vectors[row, span] = field.encode(value)
        return vectors

    def check(self, values: Mapping[str, object]) -> PatientValues:
        """Return one lesion's patient data from outside in its one form, without what is null.

        Raises:
            ConfigError: a field or a value is not known; all are listed. Values are not quoted.
        """
        found: dict[str, float | str] = {}
        fields = {field.name: field for field in self.fields}
        problems = [
            unknown_name("patient field", name, self.names).removesuffix(".")
            if _PLAIN.fullmatch(name)
            else f"unknown patient field. Known: {', '.join(self.names)}"
            for name in values
            if name not in fields
        ]
        for name, value in values.items():
            if name in fields and value is not None:
                try:
                    found[name] = fields[name].check(value)
                except ValueError as error:
                    problems.append(f"patient field {name!r}: {error}. Leave it out where it is unknown")
        if problems:
            raise ConfigError("; ".join(problems) + ".")
        return found

    def __str__(self) -> str:
        return "; ".join(f"{field.name}: {field}" for field in self.fields)

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON types."""
        kinds = {NumberField: "number", CategoryField: "category"}
        return {"fields": [{"kind": kinds[type(field)], **asdict(field)} for field in self.fields]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PatientEncoder":
        """Read an encoding back."""
        fields: list[NumberField | CategoryField] = []
        for entry in values["fields"]:
            given = {key: value for key, value in entry.items() if key != "kind"}
            if entry["kind"] == "number":
                fields.append(NumberField(**given))
            else:
                fields.append(CategoryField(given["name"], tuple(given["values"])))
        return cls(tuple(fields))


def check_patient(encoder: PatientEncoder | None, values: Mapping[str, object]) -> PatientValues:
    """Return one lesion's patient data for a model; see :meth:`PatientEncoder.check`.

    Raises:
        ConfigError: the model uses none, or does not know a field or a value.
    """
    if encoder is not None:
        return encoder.check(values)
    if values:
        raise ConfigError("this model uses no patient data. Leave it out.")
    return {}
