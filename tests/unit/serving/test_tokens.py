from pathlib import Path

import pytest

from derm_ray.errors import ConfigError, StorageError
from derm_ray.serving.tokens import VARIABLE, find_tokens, new_token, parse_tokens


def test_a_token_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    (secret, line), (other, second) = new_token("clinic-a"), new_token("clinic-b")
    assert secret not in line
    assert len(secret) >= 43  # 256 bits
    (tmp_path / "tokens").write_text(f"# who\n\n{line}\n{second}\n")
    tokens = find_tokens(str(tmp_path / "tokens"))
    assert tokens is not None
    assert tokens.identify(f"Bearer {secret}") == "clinic-a"
    assert tokens.identify(f"bearer {other}") == "clinic-b"
    for wrong in (None, "", "Bearer", "Bearer ", secret, f"Basic {secret}", f"Bearer {secret}x", "Bearer \udcff"):
        assert tokens.identify(wrong) is None


def test_the_environment_holds_tokens_where_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_tokens(None) is None
    secret, line = new_token("a")
    monkeypatch.setenv(VARIABLE, line)
    found = find_tokens(None)
    assert found is not None
    assert found.identify(f"Bearer {secret}") == "a"
    with pytest.raises(StorageError, match="none: not found"):
        find_tokens(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no token"),
        ("# only a comment", "no token"),
        ("a:12", "line 1 is not `id:sha256`"),
        ("my-secret-token", "line 1 is not `id:sha256`"),
        (f"a b:{'0' * 64}", "line 1 is not"),
        (f"a:{'0' * 64}\na:{'1' * 64}", "line 2: the id 'a' occurs twice"),
    ],
)
def test_a_file_that_is_none_is_refused_without_quoting_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse_tokens(text, "tokens")
    assert "my-secret-token" not in str(refused.value)


def test_binary_files_and_bad_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        find_tokens(str(tmp_path / "t"))
    for name in ("a b", "", "-a", "a" * 65, "a:b"):
        with pytest.raises(ConfigError, match="use letters, digits"):
            new_token(name)


def test_marks_and_blanks_of_editors_are_no_part_of_a_token(tmp_path: Path) -> None:
    secret, line = new_token("a")
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbf" + f" {line}\t\r\n\r\n".encode())
    tokens = find_tokens(str(tmp_path / "t"))
    assert tokens is not None
    assert tokens.identify(f"Bearer {secret} ") == "a"
