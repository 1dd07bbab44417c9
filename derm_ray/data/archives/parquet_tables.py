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
    """Return the kind of a Parquet file, by its schema.

    Raises:
        StorageError: storage failed.
        Damaged: it is not a Parquet file, or broken.
        ManifestError: see :func:`content`.
    """
    with opened(uri) as file:
        return content(file.schema_arrow, uri)


class ParquetTables:
    """The images of a Parquet file as rows of a manifest.

    Args:
        uri: of the file.
        values: of columns that the names of its folders give.

    Attributes:
        skipped: columns that no manifest can hold, and their types; complete once :meth:`tables` has ended.
    """

    def __init__(self, uri: str, values: dict[str, str | None]) -> None:
        self._uri = uri
        self._values = values
        self.skipped: dict[str, str] = {}

    def tables(self) -> Iterator[pa.Table]:
        """Yield one manifest table for every row group; images are read only if statistics report nulls.

        Raises:
            StorageError: storage failed.
            Damaged: it is broken, or has too large row groups.
            ManifestError: it has no column of images or ids, or a column of the wrong type.
        """
        with opened(self._uri) as file:
            schema = file.schema_arrow
            self._require_images(schema)
            leaves = image_leaves(file)
            images = {str(modality): leaves[modality] for modality in Modality if modality in leaves}
            kept, self.skipped = text_columns(schema, self._uri)
            for group in range(file.num_row_groups):
                for leaf in images.values():
                    _require_size(file, group, leaf)
                table = file.read_row_group(group, columns=kept, use_threads=False).select(kept)
                columns = as_text(table, self._uri)
                for modality, leaf in images.items():
                    there = self._present(file, group, modality, leaf)
                    columns[f"{modality}_uri"] = pa.chunked_array([self._cells(modality, group, there)])
                yield normalize_schema(with_values(pa.table(columns), self._values), self._uri).table

    def _require_images(self, schema: pa.Schema) -> None:
        what = content(schema, self._uri)
        if what is Content.MANIFEST:
            raise ManifestError(self._uri, ["it is a manifest and needs no index. Use it directly"])
        if what is Content.OTHER:
            names = ", ".join(map(quoted, schema.names[:_NAMES])) + (", ..." if len(schema) > _NAMES else "")
            raise ManifestError(
                self._uri, [f"no column 'clinical' or 'dermoscopy'; {READ}. Its columns: {names or 'none'}"]
            )

    def _cells(self, modality: str, group: int, there: list[bool]) -> pa.Array:
        cells = (
            str(ParquetCell(self._uri, modality, group, row)) if is_there else None
            for row, is_there in enumerate(there)
        )
        return pa.array(cells, pa.string())

    def _present(self, file: pq.ParquetFile, group: int, modality: str, leaf: int) -> list[bool]:
        """Return which rows have an image, from the statistics if possible.

        Raises:
            ManifestError: rows have a path in location of an image.
        """
        chunk = file.metadata.row_group(group).column(leaf)
        statistics, rows = chunk.statistics, file.metadata.row_group(group).num_rows
        nulls = statistics.null_count if statistics is not None and statistics.has_null_count else None
        kind = file.schema_arrow.field(modality).type
        paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
        if nulls == 0 or (nulls == chunk.num_values and not paths):
            return [nulls == 0] * rows
        wanted = [file.schema.column(leaf).path, *([f"{modality}.path"] if paths else [])]
        there: list[bool] = []
        only_paths = 0
        for batch in file.iter_batches(1, row_groups=[group], columns=wanted, use_threads=False):
            column = batch.column(modality)
            data = column.field("bytes") if pa.types.is_struct(kind) else column
            is_there = data[0].is_valid
            there.append(is_there)
            only_paths += bool(paths and not is_there and column.field("path")[0].as_py())
        if only_paths:
            raise ManifestError(
                self._uri,
                [
                    f"column '{modality}', row group {group}: {only_paths} of {rows} rows have a path but no bytes. "
                    f"Embed the images, or rename the column of paths to '{modality}_uri': the file is then a manifest"
                ],
            )
        return there


def _require_size(file: pq.ParquetFile, group: int, leaf: int) -> None:
    if file.metadata.row_group(group).column(leaf).total_uncompressed_size > parquets.MAX_CHUNK_BYTES:
        raise Damaged(too_large_group(group), fix=f"{FEWER_ROWS.capitalize()}.")
