"""The commands that docs/start/cluster.md gives to be typed."""

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "start" / "cluster.md"
_BLOCK = re.compile(r"^```sh\n# (?P<where>[^\n]*)\n(?P<script>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        where: its first line, which says on which machine it is typed, and what it does.
        script: the rest.
    """

    where: str
    script: str


def blocks() -> list[Block]:
    """Return the blocks for machines, in order."""
    text = DOCUMENT.read_text().partition("## On machines")[2].partition("\n## ")[0]
    return [Block(found["where"], found["script"]) for found in _BLOCK.finditer(text)]
