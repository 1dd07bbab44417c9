"""Reading Parquet bytes."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def parse_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file.

    It is read on the calling thread: where a command ends right after a read on Arrow's thread pools, the process
    was seen to abort at exit ("terminate called without an active exception", pyarrow 26).

    Args:
        data: the whole file.
        columns: names to read; ``None`` is all.

    Raises:
        pyarrow.ArrowInvalid: it is not a Parquet file.
    """
    return pq.ParquetFile(pa.BufferReader(data)).read(columns=columns, use_threads=False)
