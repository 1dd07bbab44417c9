"""Classification of Parquet columns: images, text, or neither."""

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray.data.archives.names import quoted, shown
from derm_ray.data.manifest import SCHEMA, URI_COLUMNS
from derm_ray.data.normalization import column_key
from derm_ray.domain import Modality
from derm_ray.errors import ManifestError

_KNOWN = {column_key(name): name for name in SCHEMA.names}
READ = "images are read from binary columns, or structs {bytes, path}"


class Content(Enum):
    """Kind of a Parquet file, by the names and types of its columns."""

    IMAGES = "images"
    MANIFEST = "a manifest"
    OTHER = "other"


def content(schema: pa.Schema, uri: str) -> Content:
    """Return the kind of a file.

    Raises:
        ManifestError: an image column has an unsupported type or occurs more than once, or the file names
            images both ways.
    """
    names = Counter(schema.names)
    if twice := [name for name in (*Modality, *URI_COLUMNS) if names[name] > 1]:
        raise ManifestError(uri, [f"column {name!r} occurs more than once; keep one" for name in map(str, twice)])
    asked = [field for field in schema if field.name in set(Modality)]
    if uris := [name for name in names if _known(name) in URI_COLUMNS]:
        if both := [field.name for field in asked if _holds_bytes(field.type)]:
            raise ManifestError(uri, [f"both {quoted(both[0])} and {quoted(uris[0])} give images; keep one of the two"])
        return Content.MANIFEST
    problems = [problem for field in asked if (problem := _type_problem(field))]
    problems += [
        f"column {quoted(name)} looks like '{wanted}', which is missing; rename it"
        for name in names
        if (wanted := column_key(name)) in set(Modality) - names.keys()
    ]
    if problems:
        raise ManifestError(uri, problems)
    return Content.IMAGES if asked else Content.OTHER


def image_leaves(file: pq.ParquetFile) -> dict[str, int]:
    """Return the columns that can hold images, with the number of the Parquet column that holds their bytes."""
    found: dict[str, int] = {}
    leaf = 0
    for field in file.schema_arrow:
        if is_image(field.type):
            before = field.type.get_field_index("bytes") if pa.types.is_struct(field.type) else 0
            found[field.name] = leaf + sum(_leaves(field.type.field(i).type) for i in range(before))
        leaf += _leaves(field.type)
    return found


def _leaves(kind: pa.DataType) -> int:
    """Return how many Parquet columns hold an Arrow type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    return sum(_leaves(kind.field(i).type) for i in range(kind.num_fields)) if pa.types.is_nested(kind) else 1


def is_image(kind: pa.DataType) -> bool:
    """Return whether cells of this type are images: binary, or a Hugging Face struct."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    return any(
        check(kind)
        for check in (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether cells are bytes, including unsupported representations."""
    return is_image(kind) or (_is_list(kind) and pa.types.is_integer(kind.value_type))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind)) and not pa.types.is_struct(kind) and hasattr(kind, "value_type")


def _type_problem(field: pa.Field) -> str | None:
    if is_image(field.type) or pa.types.is_null(field.type):
        return None
    message = f"column {quoted(field.name)} is {type_name(field.type)}; {READ}."
    if _is_text(field.type):
        return f"{message} If it contains paths, rename it to '{field.name}_uri': the file is then a manifest"
    if _is_list(field.type) and pa.types.is_integer(field.type.value_type):
        return f"{message} Write its values as binary, such as bytes(values) in Python"
    return f"{message} Store images in it, or rename the column"


def type_name(kind: pa.DataType) -> str:
    """Return a type as it is shown in messages."""
    return f"text ({shown(str(kind), 60)})" if _is_text(kind) else shown(str(kind), 60)


def text_columns(schema: pa.Schema, uri: str) -> tuple[list[str], dict[str, str]]:
    """Return the non-image columns that a manifest can store, and the others as column -> type.

    These are nested and binary columns that no manifest knows.
    """
    kept: list[str] = []
    skipped: dict[str, str] = {}
    problems: list[str] = []
    for field in schema:
        if field.name in set(Modality):
            continue
        kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
        known = _known(field.name)
        if known is not None and pa.types.is_nested(kind):
            wanted = SCHEMA.field(known).type
            problems.append(f"column {quoted(field.name)} is {type_name(field.type)}; expected {wanted}")
        elif known or pa.types.is_fixed_size_binary(kind) or not (pa.types.is_nested(kind) or _is_binary(kind)):
            kept.append(field.name)
        else:
            skipped[field.name] = type_name(field.type)
    problems += [f"column {quoted(name)} occurs more than once; keep one" for name, n in Counter(kept).items() if n > 1]
    if problems:
        raise ManifestError(uri, problems)
    return kept, skipped


def as_text(table: pa.Table, uri: str) -> dict[str, pa.ChunkedArray]:
    """Return columns as text; those that manifests know keep numbers, for the manifest to convert.

    UUIDs and bytes of a fixed length become text (the latter hexadecimal), dictionaries and extension types what they
    stand for.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    problems: list[str] = []
    for field in table.schema:
        try:
            columns[field.name] = _text(table[field.name], known=_known(field.name) is not None)
            columns[field.name].validate(full=True)
        except pa.ArrowException as error:
            problems.append(
                f"column {quoted(field.name)} is {type_name(field.type)} and cannot be read: {shown(str(error))}"
            )
    if problems:
        raise ManifestError(uri, problems)
    return columns


def _known(name: str) -> str | None:
    """Return which column of a manifest a name stands for, or ``None``."""
    return _KNOWN.get(column_key(name))


def _text(column: pa.ChunkedArray, *, known: bool) -> pa.ChunkedArray:
    kind = column.type
    if isinstance(kind, pa.UuidType):
        return _written(column, str)
    if isinstance(kind, pa.BaseExtensionType):
        return _text(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type), known=known)
    if pa.types.is_dictionary(kind):
        return _text(column.cast(kind.value_type), known=known)
    if pa.types.is_fixed_size_binary(kind):
        return _written(column, bytes.hex)
    keep = known and not (_is_binary(kind) or _is_text(kind))
    return column if keep else column.cast(pa.string())


def _written(column: pa.ChunkedArray, write: Callable[[Any], str]) -> pa.ChunkedArray:
    values = [None if value is None else write(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])
