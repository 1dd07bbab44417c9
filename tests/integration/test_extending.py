"""The worked example of docs/guides/extending.md, as written: another package adds a trunk and an importer."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from derm_ray.data.manifest import Manifest, read_manifest
from tests.conftest import RunCommand, take

PAGE = Path(__file__).parents[2] / "docs/guides/extending.md"


def block(language: str) -> str:
    """Return the page's last block in a language; the one before the commands of the product installs the package."""
    return str(re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1])


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The page's package, as pip would install it."""
    folder = tmp_path / "site"
    info = folder / "my_derm-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "my_derm.py").write_text(block("python"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_derm\nVersion: 1.0\n")
    groups = tomllib.loads(block("toml"))["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()) for group, points in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_the_commands_of_the_page_work(
    derm_ray: RunCommand, package: Path, pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=":")
    some = take(pairs.absolute(), 90).pairs()
    rows = [f"{p.lesion_id},{p.clinical_uri},{p.dermoscopy_uri},{p.diagnosis}" for p in some]
    (tmp_path / "cases.csv").write_text("\n".join(["case,photo,derm,label", *rows, "x,a.jpg,b.jpg,wart"]) + "\n")
    for line in block("sh").splitlines():
        done = derm_ray(*shlex.split(line)[1:])
        assert done.returncode == 0, done.stderr
        if "import" in line:
            assert "90 of 91 pairs imported as paper15" in done.stdout
            assert "1  wart" in done.stdout
    assert len(read_manifest(str(tmp_path / "m.parquet"))) == 90
    done = derm_ray("score-one", "--model", "runs/first/bundle", "--clinical", str(some[0].clinical_uri))
    assert done.returncode == 0, done.stderr
    assert "trunk small" in (tmp_path / "runs/first/bundle/README.md").read_text()
