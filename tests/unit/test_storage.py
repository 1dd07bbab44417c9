import os
from pathlib import Path

import pytest

from derm_ray import storage
from derm_ray.errors import StorageError


def test_write_is_atomic_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "file.bin"
    storage.write_bytes(str(target), b"old")

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(StorageError, match=r"No space left on device\. Check the disk"):
        storage.write_bytes(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]


def test_missing_file_and_unknown_scheme_name_the_uri(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing\.txt: not found"):
        storage.read_bytes(str(tmp_path / "nothing.txt"))
    with pytest.raises(StorageError, match="carrier://pigeon"):
        storage.read_bytes("carrier://pigeon/x")


def test_relative_uris_resolve_against_the_manifest() -> None:
    assert storage.resolve("images/a.jpg", "s3://bucket/set") == "s3://bucket/set/images/a.jpg"
    assert storage.resolve("../img/./a.jpg", "s3://bucket/set") == "s3://bucket/img/a.jpg"
    assert storage.resolve("s3://other/a.jpg", "s3://bucket/set") == "s3://other/a.jpg"
    assert storage.resolve("/data/a.jpg", "s3://bucket/set") == "/data/a.jpg"
    assert storage.parent("/data/set/m.csv") == "/data/set"
    assert storage.parent("s3://bucket/m.csv") == "s3://bucket"


def test_digest_does_not_depend_on_key_order() -> None:
    assert storage.digest({"a": 1, "b": [2]}) == storage.digest({"b": [2], "a": 1})
    assert storage.digest({"a": 1}) != storage.digest({"a": 2})


def test_bad_json_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(StorageError, match=r"x\.json: not valid JSON"):
        storage.read_json(str(tmp_path / "x.json"))


def test_remove_tree_and_list_files(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "a" / "b.txt"), b"1")
    assert storage.list_files(str(tmp_path / "a")) == [str(tmp_path / "a" / "b.txt")]
    storage.remove_tree(str(tmp_path / "a"))
    assert storage.list_files(str(tmp_path / "a")) == []
    storage.remove_tree(str(tmp_path / "a"))


def test_what_lies_at_a_uri_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "broken.jpg").symlink_to("no.jpg")
    os.mkfifo(tmp_path / "pipe")
    names = ("a.jpg", "link.jpg", ".", "broken.jpg", "no.jpg", "a.jpg/b", "x" * 5000, "pipe")
    kinds = [storage.kind(str(tmp_path / name)) for name in names]
    assert kinds == ["file", "file", "directory", None, None, None, None, "other"]


@pytest.mark.parametrize("path", [r"C:\a\b.jpg", "d:/a.jpg", r"\\server\share\a.jpg"])
def test_windows_paths_are_not_joined_to_a_folder(path: str) -> None:
    assert storage.is_windows_path(path)
    assert storage.resolve(path, "/data") == path
    for other in ("a.jpg", r"a\b.jpg", "/a.jpg", "s3://a/b", "C.jpg", "x:a.jpg", "s://b"):
        assert not storage.is_windows_path(other)
