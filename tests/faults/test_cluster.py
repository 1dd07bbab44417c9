"""A node that is lost, and an object store that is small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from derm_ray.scoring.reconcile import verify
from tests.faults.conftest import PAIRS, frame

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def script(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"tests.{name}", *arguments]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_a_node_that_is_lost(archive: str, bundle_uri: str, expected: pd.DataFrame, tmp_path: Path) -> None:
    out = str(tmp_path / "scores")
    done = script("faults.lost_node", bundle_uri, archive, out)
    assert done.returncode == 0, done.stderr
    assert f"{PAIRS} pairs, 1 node alive" in done.stdout
    pd.testing.assert_frame_equal(frame(out), expected, rtol=0, atol=1e-5)
    assert verify(out).pairs == PAIRS


def test_images_larger_than_the_object_store_do_not_spill(bundle_uri: str, tmp_path: Path) -> None:
    lines, size = ["lesion_id,clinical_uri,dermoscopy_uri"], 0
    for number in range(200):
        for name in ("c", "d"):
            noise = np.random.default_rng(number).integers(0, 256, (1000, 1000, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{number}{name}.jpg", quality=85)
            size += (tmp_path / f"{number}{name}.jpg").stat().st_size
        lines.append(f"L{number},{number}c.jpg,{number}d.jpg")
    assert size > 250_000_000
    (tmp_path / "m.csv").write_text("\n".join(lines))
    done = script("faults.small_store", bundle_uri, str(tmp_path / "m.csv"), str(tmp_path / "scores"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("no spill\n")
    assert verify(str(tmp_path / "scores")).scored == 200


def test_ten_times_the_rows_take_hardly_more_of_the_driver_s_memory(tmp_path: Path) -> None:
    few, many, again = (
        json.loads(script("scale", rows, str(tmp_path)).stdout.splitlines()[-1]) for rows in ("4000", "40000", "40000")
    )
    assert (few["rows"], many["rows"]) == (4000, 40000)
    assert many["driver_peak_mb"] <= 1.1 * few["driver_peak_mb"]
    assert (many["resumed_parts"], again["resumed_parts"]) == (0, 157)
    assert again["seconds"] < many["seconds"]
