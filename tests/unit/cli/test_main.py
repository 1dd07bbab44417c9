import sys
from pathlib import Path

import pytest

from derm_ray.cli import main, stopping
from derm_ray.cli.score_one import score_one
from derm_ray.errors import ServingError
from derm_ray.serving.client import Client


def test_a_name_in_a_message_cannot_drive_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["derm-ray", "data", "validate", "/nowhere/\x1b]0;title\x07\u202egpj.csv"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(r"error: /nowhere/\x1b]0;title\x07\u202egpj.csv: not found")
    assert message.removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("serve", "--model", "b", "--replicas", "2", "--max-replicas", "1"), "error: --max-replicas 1 is below --replicas 2"),
        (("train", "--manifest", "none.csv", "--out", "o", "--name", "n"), "takes very long on CPUs. Give --preset light"),
        (("train", "--manifest", "none.csv", "--out", "o", "--name", "n", "--preset", "paper"), "error: none.csv"),
        (("score-one", "--model", "BUNDLE", "--clinical", __file__), f"error: {__file__}: not an image"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(
    words: tuple[str, ...],
    message: str,
    bundle_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["derm-ray", *(bundle_uri if word == "BUNDLE" else word for word in words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert ("takes very long" in said) == ("takes very long" in message)


def test_an_endpoints_refusal_of_an_image_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ServingError("http://e: refused: clinical image: not an image (not_an_image, status 422)")

    monkeypatch.setattr(Client, "score", refuse)
    with pytest.raises(ServingError, match=f"refused: clinical image {__file__}: not an image"):
        score_one(clinical=__file__, url="http://e")


def test_a_stop_before_the_endpoint_is_ready_is_a_clean_one(capsys: pytest.CaptureFixture[str]) -> None:
    with stopping.clean():
        raise KeyboardInterrupt
    assert "stopped" in capsys.readouterr().out
