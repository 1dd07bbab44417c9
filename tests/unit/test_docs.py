"""The documentation agrees with the code; ``make check`` builds it, which checks its links."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
_MARKER = re.compile(r"<!-- generated: (\w+) -->")
_PATH = re.compile(r"`((?:docs|cluster|tests|derm_ray|jobs|\.github)/[\w./*-]*)`")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "_generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_generated_table_is_on_a_page_and_has_rows(generate: ModuleType) -> None:
    used = [name for page in PAGES for name in _MARKER.findall(page.read_text())]
    assert sorted(used) == sorted(generate.GENERATORS)
    for name in used:
        text = generate.on_page_markdown(f"<!-- generated: {name} -->")
        assert "generated:" not in text
        assert len(text.splitlines()) > 3, name


def test_the_settings_table_has_types_ranges_and_defaults(generate: ModuleType) -> None:
    rows = [row.strip("| ").split(" | ") for row in generate._tables.settings().splitlines()]
    found = {row[0]: row[1:] for row in rows}
    assert found["`size`"][:6] == ["whole number, ≥ 32, or none", "none", "`128`", "`160`", "`384`", "`64`"]
    assert found["`momentum`"][0] == "number, ≥ 0, < 1"
    assert found["`rank`"][:2] == ["whole number, ≥ 1, or none", "none"]


def test_a_column_or_code_without_a_meaning_fails(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(generate._tables.MANIFEST_COLUMNS, "sex")
    with pytest.raises(generate._tables.DocumentationError, match="columns of manifests: sex"):
        generate._tables.manifest()
    monkeypatch.setitem(generate._service_tables.HTTP_ERRORS, "teapot", "No such code.")
    with pytest.raises(generate._tables.DocumentationError, match="problem documents: teapot"):
        generate._service_tables.http_errors()
    monkeypatch.setattr(generate._tables, "SCORE_COLUMNS", generate._tables.SCORE_COLUMNS[:-1])
    with pytest.raises(generate._tables.DocumentationError, match="'scored_at' has no meaning"):
        generate._tables.scores()


def test_metrics_are_those_that_a_scrape_saw(generate: ModuleType) -> None:
    import yaml

    seen = yaml.safe_load((ROOT / "tests/cluster/metrics.yaml").read_text())
    names = {name for group in seen.values() for name in group if name.startswith("ray_derm_ray_")}
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    documented = set(re.findall(r"^\| `(\w+)`", generate._service_tables.metrics(), re.MULTILINE))
    assert documented == names


def _named_paths() -> Iterator[tuple[Path, str]]:
    for text in TEXTS:
        for path in _PATH.findall(text.read_text()):
            yield text, path


def test_paths_that_the_documentation_names_exist() -> None:
    absent = [
        f"{text.relative_to(ROOT)}: {path}" for text, path in _named_paths() if not list(ROOT.glob(path.rstrip("/")))
    ]
    assert not absent


@pytest.mark.parametrize("text", TEXTS[:2], ids=lambda text: text.name)
def test_links_beside_the_site_lead_somewhere(text: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text.read_text())
    local = [link.partition("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert local
    assert not [link for link in local if not (ROOT / link).exists()]


def paragraphs(markdown: str) -> list[str]:
    """Return the prose of a page: paragraphs and list items, without code, tables, headings and HTML comments."""
    markdown = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    markdown = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", markdown)
    markdown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", markdown)
    return [b.strip() for b in blocks if b.strip() and not b.lstrip().startswith(("#", "|", "<", "---", "!!!"))]


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    words = [len(paragraph.split()) for paragraph in paragraphs(text)]
    assert max(words) <= 60
    assert sum(words) / len(words) <= 25


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parts[-2] not in ("benchmarks", "results")], ids=lambda page: page.stem
)
def test_pages_have_no_long_paragraphs(page: Path) -> None:
    long = [paragraph for paragraph in paragraphs(page.read_text()) if len(paragraph.split()) > 60]
    assert not long


def test_blocks_of_the_readme_end() -> None:
    """A command that serves until Ctrl-C is the last line of its block, so that a block can be pasted as a whole."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    blocks = [text for language, text in fenced if language in ("sh", "console")]
    assert blocks
    for block in blocks:
        *before, _ = block.strip().splitlines()
        assert not [line for line in before if "derm-ray serve" in line]
