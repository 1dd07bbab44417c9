"""The gallery on a sealed network and real images, one of which is gone."""

from pathlib import Path

import numpy as np
import torch

from derm_ray.bundle import save_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import PAPER15, PredictionKind
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network
from derm_ray.studies.reproduction import PRESETS
from derm_ray.studies.reproduction.gallery import ROW, make_gallery, wrong_alone_right_together
from derm_ray.studies.reproduction.grid import make_trials
from derm_ray.studies.reproduction.predictions import TrialPredictions
from derm_ray.studies.reproduction.results import StudyResults, assemble
from derm_ray.studies.reproduction.trials import Grid, Resources, TrialOutcome
from tests.conftest import take


def complete_run(folder: str) -> None:
    torch.manual_seed(0)
    config = NetworkConfig("triple", "tiny", "cam_bp", 15, cam=CamConfig("tiny", 15))
    weights = build_network(config).state_dict()
    save_bundle(
        folder, network=config, label_set=PAPER15, preprocessing=Preprocessing(32), weights=weights, provenance={}
    )


def results(manifest: Manifest) -> tuple[StudyResults, TrialPredictions]:
    """A study in which every pair is wrong on each image alone and right on both."""
    truth = np.array([PAPER15.class_names.index(str(name)) for name in manifest.column("diagnosis")])
    right = np.eye(15, dtype=np.float32)
    given = dict.fromkeys((PredictionKind.CLINICAL, PredictionKind.DERMOSCOPY), right[(truth + 1) % 15])
    given[PredictionKind.CROSS] = right[truth]
    ids = tuple(pair.pair_id for pair in manifest.pairs())
    answers = TrialPredictions(PAPER15, ids, ids, truth, given, {}, {})
    (trial,) = (trial for trial in make_trials(PRESETS["milk10k-cpu"]("paper15"), [0]) if trial.row.name == ROW)
    metadata = {"label_set": "paper15", "seeds": [0]}
    return assemble([TrialOutcome(trial, answers)], {}, metadata, plain="gap"), answers


def test_a_lesion_whose_image_is_gone_is_left_out_of_the_gallery(pairs: Manifest, tmp_path: Path) -> None:
    few = take(pairs, 4).absolute()
    study, answers = results(few)
    grid = Grid(few, str(tmp_path / "study"), {}, Resources())
    complete_run(grid.bundle_uri(ROW, 0))
    whole = make_gallery(study, few, grid)
    assert whole is not None
    assert (whole.count, whole.pairs, len(whole.cases)) == (4, 4, 4)
    assert all(image.startswith("data:image/jpeg;base64,") for case in whole.cases for image in case.images)

    gone = wrong_alone_right_together(answers)[0][0]
    uris = list(few.column("clinical_uri"))
    uris[gone] = str(tmp_path / "gone.jpg")
    rest = make_gallery(study, few.with_column("clinical_uri", uris), grid)
    assert rest is not None
    assert [case.images for case in rest.cases] == [case.images for case in whole.cases[1:]]


def test_only_folders_of_cells_have_a_seed(pairs: Manifest, tmp_path: Path) -> None:
    for name in ("cam-seed7", "cam-seedx", "notes-seed", "logistic-regression"):
        (tmp_path / "trials" / name).mkdir(parents=True)
        (tmp_path / "trials" / name / "file").write_text("")
    assert Grid(take(pairs, 4), str(tmp_path), {}, Resources()).seeds() == [7]


def test_a_study_without_the_network_has_no_gallery(pairs: Manifest, tmp_path: Path) -> None:
    study, _ = results(take(pairs, 4))
    without = StudyResults((), study.verdicts, study.metadata)
    assert make_gallery(without, take(pairs, 4), Grid(take(pairs, 4), str(tmp_path), {}, Resources())) is None
