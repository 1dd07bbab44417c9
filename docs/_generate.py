"""MkDocs hook: reference pages hold ``<!-- generated: NAME -->`` where a table made from the code stands.

A sentence before it (``_NOTE``) says where the table is, for those who read the file itself; the site leaves it out.

A meaning in ``docs/_meanings.yaml`` must have its column or code, and the other way round: else the build fails.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _service_tables
import _tables

_NOTE = "_Generated from the code: run `make docs` and open this page in `build/site`._"
_MARKER = re.compile(rf"^(?:{re.escape(_NOTE)}\n\n)?<!-- generated: (\w+) -->$", re.MULTILINE)
_IN = {
    _tables: (
        "cli",
        "settings",
        "trunks",
        "heads",
        "importers",
        "archives",
        "engines",
        "evaluation_metrics",
        "manifest",
        "labels",
        "diagnoses",
        "scores",
    ),
    _service_tables: ("http", "exit_codes", "image_errors", "http_errors", "metrics", "ports", "python"),
}
GENERATORS = {name: getattr(module, name) for module, names in _IN.items() for name in names}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the markers of one page."""
    return _MARKER.sub(lambda found: GENERATORS[found[1]](), markdown)
