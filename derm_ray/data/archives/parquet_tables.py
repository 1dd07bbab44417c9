"""Parquet files with images as manifest tables."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray.data.archives import parquets
from derm_ray.data.archives.address import ParquetCell
from derm_ray.data.archives.containers import Damaged
from derm_ray.data.archives.names import quoted
from derm_ray.data.archives.parquet_columns import READ, Content, as_text, content, image_leaves, text_columns
from derm_ray.data.archives.parquets import FEWER_ROWS, opened, too_large_group
from derm_ray.data.manifest import normalize_schema
from derm_ray.data.parts import with_values
from derm_ray.domain import Modality
from derm_ray.errors import ManifestError

_NAMES = 10


def parquet_content(uri: str) -> Content:
    """Return the kind of a Parquet file, by its schema."""
    with opened(uri) as file:
        return content(file.schema_arrow, uri)


def image_tables(uri: str, values: dict[str, str | None], skipped: dict[str, str]) -> Iterator[pa.Table]:
    """Yield one manifest table for every row group; images are read only if statistics report nulls.

    ``values`` are of columns that the names of the file's folders give. ``skipped`` receives the columns that no
    manifest can hold, and their types.
    """
    with opened(uri) as file:
        _require_images(file.schema_arrow, uri)
        leaves = image_leaves(file)
        images = {str(modality): leaves[modality] for modality in Modality if modality in leaves}
        kept, others = text_columns(file.schema_arrow, uri)
        skipped |= others
        for group in range(file.num_row_groups):
            for leaf in images.values():
                if file.metadata.row_group(group).column(leaf).total_uncompressed_size > parquets.MAX_CHUNK_BYTES:
                    raise Damaged(too_large_group(group), fix=f"{FEWER_ROWS.capitalize()}.")
            columns = as_text(file.read_row_group(group, columns=kept, use_threads=False).select(kept), uri)
            for modality, leaf in images.items():
                there = _present(file, group, modality, leaf, uri)
                cells = [str(ParquetCell(uri, modality, group, row)) if is_there else None for row, is_there in there]
                columns[f"{modality}_uri"] = pa.chunked_array([pa.array(cells, pa.string())])
            yield normalize_schema(with_values(pa.table(columns), values), uri).table


def _require_images(schema: pa.Schema, uri: str) -> None:
    what = content(schema, uri)
    if what is Content.MANIFEST:
        raise ManifestError(uri, ["it is a manifest and needs no index. Use it directly"])
    if what is Content.OTHER:
        names = ", ".join(map(quoted, schema.names[:_NAMES])) + (", ..." if len(schema) > _NAMES else "")
        raise ManifestError(uri, [f"no column 'clinical' or 'dermoscopy'; {READ}. Its columns: {names or 'none'}"])


def _present(file: pq.ParquetFile, group: int, modality: str, leaf: int, uri: str) -> Iterator[tuple[int, bool]]:
    """Yield the rows and whether each has an image, from the statistics if possible."""
    chunk = file.metadata.row_group(group).column(leaf)
    statistics, rows = chunk.statistics, file.metadata.row_group(group).num_rows
    nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
    kind = file.schema_arrow.field(modality).type
    paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    if nulls == 0 or (nulls == chunk.num_values and not paths):
        yield from ((row, nulls == 0) for row in range(rows))
        return
    wanted = [file.schema.column(leaf).path, *([f"{modality}.path"] if paths else [])]
    only_paths = 0
    for row, batch in enumerate(file.iter_batches(1, row_groups=[group], columns=wanted, use_threads=False)):
        column = batch.column(modality)
        is_there = (column.field("bytes") if pa.types.is_struct(kind) else column)[0].is_valid
        only_paths += bool(paths and not is_there and column.field("path")[0].as_py())
        yield row, is_there
    if only_paths:
        problem = (
            f"column '{modality}', row group {group}: {only_paths} of {rows} rows have a path but no bytes. Embed the "
            f"images, or rename the column of paths to '{modality}_uri': the file is then a manifest"
        )
        raise ManifestError(uri, [problem])
