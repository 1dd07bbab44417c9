"""The report of a hand-made audit, without Ray."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from derm_ray.audit.audit import Audit, audit, require_libraries
from derm_ray.audit.findings import Images, duplicate_groups, problem_images
from derm_ray.audit.fingerprint import Fingerprints
from derm_ray.audit.label_errors import LabelError, LabelErrors
from derm_ray.audit.report import SHOWN, SHOWN_IMAGES, summary_text, write_audit
from derm_ray.data.manifest import normalize_schema
from derm_ray.data.summary import summarize
from derm_ray.data.validation import groups_in_several_splits
from derm_ray.errors import ConfigError, ManifestError

PAIRS = 70
HOSTILE = "<script>alert(1)</script>"


def _audit() -> Audit:
    """All pairs share their clinical photo; all dermoscopy images are dark, and one cannot be read."""
    rows = [
        {
            "pair_id": HOSTILE if row == 0 else f"pair {row}",
            "lesion_id": f"lesion {row}",
            "patient_id": f"patient {row // 2}",
            "clinical_uri": "shared.jpg",
            "dermoscopy_uri": f"{row}.jpg",
            "diagnosis": "melanoma" if row else "dermatofibroma",
            "split": "test" if row == 0 else "train",
            "source": "ours" if row % 2 else "theirs",
        }
        for row in range(PAIRS)
    ]
    manifest = normalize_schema(pa.Table.from_pylist(rows), "/data/m.parquet")
    images = Images.of(manifest)
    found = Fingerprints.empty(len(images.uris))
    found.measures[:] = (10, 100, 450, 1)
    unreadable = images.uris.index("/data/5.jpg")
    found.measures[unreadable] = np.nan
    found.errors[unreadable] = ("corrupt", "damaged")
    none = np.zeros(0, np.int64)
    return Audit(
        manifest,
        summarize(manifest),
        images,
        found,
        duplicate_groups(manifest, images, np.arange(len(images.uris)), none, none),
        list(groups_in_several_splits(manifest)),
        problem_images(found, prepared=False),
        LabelErrors((LabelError(3, "melanoma", "dermatofibroma", 0.01, 0.9),), PAIRS),
    )


def test_page_json_and_table_agree_and_names_are_escaped(tmp_path: Path) -> None:
    found = _audit()
    uris = write_audit(found, str(tmp_path / "audit"))
    page = Path(uris["html"]).read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert f"and {PAIRS - SHOWN_IMAGES} more" in page
    assert "given melanoma (probability 0.010), perhaps dermatofibroma (0.900)" in page
    assert "corrupt: damaged" in page

    values = json.loads(Path(uris["json"]).read_text())
    assert values["leak"]
    assert values["counts"] == {
        "duplicates_across_splits": 1,
        "groups_in_several_splits": 1,
        "exact_duplicates": 1,
        "near_duplicates": 0,
        "label_conflicts": 1,
        "duplicates_across_sources": 1,
        "label_errors": 1,
        "unreadable": 1,
        "not_skin": 0,
        "blurred": 0,
        "dark": PAIRS,
        "tiny": 0,
    }
    assert len(values["findings"]["dark"]) == SHOWN
    assert values["findings"]["groups_in_several_splits"][0]["text"] == "patient_id patient 0 is in test, train"

    table = pq.read_table(uris["table"]).to_pylist()
    dark = [row for row in table if row["finding"] == "dark"]
    assert {row["number"] for row in dark} == set(range(1, PAIRS + 1))
    assert sum(row["uri"] == "/data/shared.jpg" for row in dark) == PAIRS  # the other images are of one pair each
    assert len(dark) == PAIRS + PAIRS - 1
    leak = [row for row in table if row["finding"] == "duplicates_across_splits"]
    assert [row["pair_id"] for row in leak] == found.manifest.column("pair_id")
    assert leak[0]["text"] == (
        "same file, 70 pairs, splits: test and train, diagnoses: dermatofibroma and melanoma, source: ours and theirs"
    )
    assert "       70  dark" in summary_text(found)
    assert summary_text(found).endswith("leak found")


def test_what_is_missing_is_named_before_any_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _audit()
    with pytest.raises(ManifestError, match="unknown split 'tests'"):
        audit(found.manifest.with_column("split", ["tests"] * PAIRS))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"needs the package faiss-cpu: pip install 'derm-ray\[audit\]'"):
        require_libraries()
