"""The reference of drift, measured by tasks of a real Ray."""

from pathlib import Path

import numpy as np
import pytest

from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import Modality
from derm_ray.training.run import reference
from derm_ray.training.run.reference import measure_images

pytestmark = pytest.mark.ray


def test_a_bounded_sample_is_measured_and_what_cannot_be_read_is_left_out(
    ray_local: None, pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reference, "SAMPLE", 120)
    with caplog.at_level("INFO", "derm_ray"):
        whole = measure_images(pairs.pairs(), Preprocessing(48), seed=0)
    assert caplog.text == ""
    assert [len(whole[modality]) for modality in Modality] == [120, 120]
    assert np.std([one.brightness for one in whole[Modality.CLINICAL]]) > 10
    assert {one.resolution for one in whole[Modality.DERMOSCOPY]} == {160}
    assert measure_images(pairs.pairs(), Preprocessing(48), seed=0) == whole
    assert measure_images(pairs.pairs(), Preprocessing(48), seed=1) != whole

    lost = pairs.with_column("clinical_uri", [str(tmp_path / "lost.jpg")] * len(pairs))
    with caplog.at_level("INFO", "derm_ray"):
        found = measure_images(lost.pairs(), Preprocessing(48), seed=0)
    assert "the drift reference lacks 120 of 240 images, which could not be read" in caplog.text
    assert found == {Modality.CLINICAL: [], Modality.DERMOSCOPY: whole[Modality.DERMOSCOPY]}


def test_tasks_that_fail_cost_the_reference_and_not_the_run(
    ray_local: None, pairs: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "derm_ray"):
        found = measure_images(pairs.pairs()[:3], None, seed=0)  # type: ignore[arg-type]
    assert "no image statistics for drift monitoring: " in caplog.text
    assert found == {Modality.CLINICAL: [], Modality.DERMOSCOPY: []}
