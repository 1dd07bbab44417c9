"""Normalization of text in manifest columns."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

MISSING_WORDS = frozenset(
    {"na", "n/a", "n.a.", "#n/a", "<na>", "none", "nan", "nat", "null", "unknown"}  # pandas, R, Excel, SQL and people
)
"""Words for a missing value, in any case, if they are the whole cell: ``NA`` is one, ``None-12`` and ``0`` are not.
``unknown`` counts for ids too: lesions of unknown patients do not belong to one patient."""

MAX_WHOLE = 2**53
"""From here on floating point numbers do not hold every whole number."""

_MISSING = pa.array(["", *sorted(MISSING_WORDS)])
# Default-ignorable or blank in Unicode, yet printable for ``str.isprintable``.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def normalize(text: str) -> str:
    """Return an id or a name in its one form: Unicode NFC, without white space of any kind at its ends."""
    return unicodedata.normalize("NFC", text).strip()


def is_missing(text: str) -> bool:
    """Return whether a value means missing; see :data:`MISSING_WORDS`."""
    found = normalize(text).lower()
    return not found or found in MISSING_WORDS


def has_unseen(text: str) -> bool:
    """Return whether text has invisible characters: controls, formats, fillers, white space other than blanks."""
    return not text.isprintable() or bool(_BLANK.search(text))


def column_key(name: str) -> str:
    """Return the normalized name of a column: ``Lesion ID``, ``lesion-id`` and ``lesion_id`` are one."""
    return re.sub(r"[\W_]+", "", normalize(name).casefold())


def convert(
    column: pa.ChunkedArray, kind: pa.DataType, *, is_id: bool = False, is_uri: bool = False
) -> tuple[pa.ChunkedArray, Counter[str]]:
    """Return a column of any type as text or numbers, null where a value is missing.

    Args:
        column: of any type.
        kind: string, double or int64.
        is_id: floating point numbers must be whole, as pandas stores integers with gaps: ``12.0`` is ``12``.
        is_uri: values are kept as they are, since files may have any name; other text is normalized as by
            :func:`normalize`.

    Returns:
        The column, and the words that were read as missing with their counts.

    Raises:
        ValueError, pyarrow.ArrowException: a value does not convert; see :func:`not_numbers`.
    """
    column, words = _plain(column), Counter[str]()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        column = _whole(column) if is_id else column
    if pa.types.is_string(kind):
        column = column.cast(kind)
    if pa.types.is_string(column.type):
        column, words = _normalize_column(column, verbatim=is_uri)
    if pa.types.is_integer(kind) and not pa.types.is_integer(column.type):
        column = column.cast(pa.float64())  # text and floats such as 3.0
    column = column.cast(kind)
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    return column, words


def not_numbers(column: pa.ChunkedArray, kind: pa.DataType) -> Iterator[tuple[int, str]]:
    """Yield the rows, counted from 1, whose text does not convert to numbers, each with the problem."""
    column = _plain(column)
    if pa.types.is_string(kind) or not pa.types.is_string(column.type):
        return
    wanted = "a whole number" if pa.types.is_integer(kind) else "a number"
    for row in range(len(column)):
        try:
            convert(column.slice(row, 1), kind)
        except pa.ArrowException:
            value = column[row].as_py()
            comma = re.fullmatch(r"\s*(\d+),(\d+)\s*", value)
            yield row + 1, f"{value!r} is not {wanted}" + (f"; write {comma[1]}.{comma[2]}" if comma else "")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without dictionary, its text of the usual type."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    wide = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.string()) if wide else column


def _normalize_column(column: pa.ChunkedArray, *, verbatim: bool) -> tuple[pa.ChunkedArray, Counter[str]]:
    column.validate(full=True)
    text = pc.utf8_trim_whitespace(pc.utf8_normalize(column, form="NFC"))
    missing = pc.is_in(pc.utf8_lower(text), value_set=_MISSING)
    counts = pc.value_counts(text.filter(missing)).to_pylist()
    words = Counter({entry["values"]: entry["counts"] for entry in counts if entry["values"]})
    return pc.if_else(missing, pa.scalar(None, column.type), column if verbatim else text), words


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    for value in column.drop_null().to_pylist():
        if not value.is_integer() or abs(value) >= MAX_WHOLE:
            why = "beyond 2^53 digits are lost" if value.is_integer() else "1.10 and 1.1 would be one id"
            raise ValueError(f"it contains ids as floating point numbers such as {value!r} ({why}). Write ids as text")
    return column.cast(pa.int64())
