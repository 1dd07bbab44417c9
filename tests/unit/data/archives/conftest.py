"""Small archives with the same three pairs in every container."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from derm_ray import storage
from derm_ray.data.archives import retry
from derm_ray.errors import StorageError

LESIONS = ("l1", "l2", "sub/l3")
FILES = {
    f"{lesion}/{modality}.jpg": f"{lesion} {modality} ".encode() * 50
    for lesion in LESIONS
    for modality in ("clinical", "dermoscopy")
}


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    """Return a tar whose members have these contents, in order."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip whose members have these contents, in order."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return one tar header, also one that no honest writer makes."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


END = bytes(1024)


@pytest.fixture(params=["a.tar", "a.zip", "stored.zip", "a.tar.gz", "a.tgz", "folder"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an archive of :data:`FILES`, one of every kind."""
    path = tmp_path / request.param
    if request.param == "folder":
        for name, data in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif "zip" in request.param:
        path.write_bytes(zip_bytes(FILES, zipfile.ZIP_STORED if "stored" in request.param else zipfile.ZIP_DEFLATED))
    else:
        path.write_bytes(tar_bytes(FILES, "w" if request.param == "a.tar" else "w:gz"))
    return str(path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage is asked as often as always, without the waits."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)


@pytest.fixture
def storage_fails(monkeypatch: pytest.MonkeyPatch, quick: None) -> Callable[..., list[int]]:
    """Let range reads raise, one cause after the other; returns the starts that were asked for."""

    def install(*causes: Exception | None) -> list[int]:
        asked: list[int] = []
        real, left = storage.read_range, iter(causes)

        def read_range(uri: str, start: int, stop: int) -> bytes:
            asked.append(start)
            if (cause := next(left, None)) is not None:
                raise StorageError(f"{uri}: {cause}") from cause
            return real(uri, start, stop)

        monkeypatch.setattr(storage, "read_range", read_range)
        return asked

    return install
