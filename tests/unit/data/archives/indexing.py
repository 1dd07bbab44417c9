"""Writing archives, and the rows of their index."""

from pathlib import Path


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)
