import sys

import pytest

from derm_ray.cli import main


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
