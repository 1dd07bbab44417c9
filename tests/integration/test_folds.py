import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from derm_ray.bundle import load_bundle
from derm_ray.cli import app
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, PredictionKind, Split
from derm_ray.errors import OutputExistsError
from derm_ray.evaluation.evaluate import finite_metrics
from derm_ray.training.config import make_config
from derm_ray.training.run import folds as module
from derm_ray.training.run.folds import train_folds
from tests.conftest import take

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_folds_are_trained_resumed_and_sealed_as_an_ensemble(
    ray_local: None, pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second fold stops once; the same call goes on with it, and the first one is not trained again."""
    few = take(pairs, 120).absolute()
    splits = few.column("split")
    config = make_config("debug", {"size": 32, "epochs": 1, "global_batch_size": 16, "tta": "flips"})
    train, begun = module.train, []

    def train_once(*args: object, **options: object) -> object:
        begun.append(args[3])
        if begun == ["fold_1", "fold_2"]:
            raise KeyboardInterrupt
        return train(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "train", train_once)
    with pytest.raises(KeyboardInterrupt):
        train_folds(config, few, str(tmp_path), "run", 2)
    with pytest.raises(OutputExistsError, match="unfinished run with other settings: folds was 2, now 3"):
        train_folds(config, few, str(tmp_path), "run", 3)
    result = train_folds(config, few, str(tmp_path), "run", 2)
    assert begun == ["fold_1", "fold_2", "fold_2"]
    with pytest.raises(OutputExistsError, match="contains a finished run"):
        train_folds(config, few, str(tmp_path), "run", 2)

    table = pq.read_table(tmp_path / "run" / "out_of_fold.parquet")
    folded = {pair for pair, split in zip(few.column("pair_id"), splits, strict=True) if split != Split.TEST}
    assert set(table["pair_id"].to_pylist()) == folded
    truth = dict(zip(few.column("pair_id"), few.column("diagnosis"), strict=True))
    assert table["diagnosis"].to_pylist() == [truth[pair] for pair in table["pair_id"].to_pylist()]
    labels = np.array([PAPER15.class_names.index(name) for name in table["diagnosis"].to_pylist()])
    values = {
        kind: np.stack([table[f"{kind}_{name}"].to_numpy() for name in PAPER15.class_names], 1)
        for kind in PredictionKind
    }
    assert finite_metrics(PAPER15, labels, values) == pytest.approx(result.metrics)

    bundle = load_bundle(result.bundle_uri)
    assert (bundle.members, bundle.tta, bundle.passes) == (2, "flips", 8)
    for number, member in enumerate(bundle.provenance["members"]):
        alone = load_bundle(f"{result.run_uri}/fold_{number + 1}/bundle")
        assert member == {"run_id": alone.run_id, "model_digest": alone.model_digest}
        assert all((bundle.member(number).weights[key] == value).all() for key, value in alone.weights.items())
        assert alone.tta == "flips"
    vals = [
        set(pq.read_table(tmp_path / "run" / f"fold_{number}" / "val.parquet")["pair_id"].to_pylist())
        for number in (1, 2)
    ]
    assert vals[0] | vals[1] == folded
    assert not vals[0] & vals[1]
    arguments = ["evaluate", "--out-of-fold", str(tmp_path / "run"), "--out", str(tmp_path / "e"), "--json"]
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["provenance"]["calibrated_on"] == "the other folds"
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert recorded["training"]["tta"] == "flips"
