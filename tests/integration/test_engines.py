"""The int8 engine on real Ray, made by the command."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.loading import load_all
from derm_ray.errors import OutputExistsError
from derm_ray.inference.engines.engine_store import FOLDER, load_engine, store_engine
from derm_ray.inference.engines.openvino import NAME
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring.pipeline import ScoringOptions, score
from tests.conftest import RunCommand, TrainedRun, take
from tests.inputs import MemoryInput

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_int8_is_made_by_a_command_and_scores_in_bulk_as_alone(
    trained: TrainedRun, derm_ray: RunCommand, tmp_path: Path
) -> None:
    uri = str(tmp_path / "bundle")
    shutil.copytree(trained.bundle_uri, uri)
    done = derm_ray("model", "quantize", uri, "--manifest", trained.manifest.uri, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    bundle = load_bundle(uri)
    engine = load_engine(bundle, NAME)
    identity = engine.identity
    assert told["engine"] == identity
    compared = told["parity"]["pairs"]
    assert told["calibrated_on"] + compared == len(trained.manifest)
    assert identity in derm_ray("model", "verify", uri).stdout

    few = take(trained.manifest, 20).absolute()
    out = str(tmp_path / "scores")
    options = ScoringOptions(replicas=1)
    score(uri, MemoryInput(few), out, engine=NAME, shard_size=10, options=options)
    found = pd.read_parquet(out)
    (pixels,) = load_all(few.pairs(), bundle.preprocessing, few.uri)
    alone = Predictor(bundle, NAME).predict(pixels)
    assert set(found["engine"]) == {identity}
    for number, name in enumerate(bundle.label_set.class_names):
        assert found[f"p_{name}"].tolist() == pytest.approx([p.probabilities[number] for p in alone], abs=1e-5)

    # A resume takes the engine that was recorded; another one under the same name is refused.
    again = score(uri, MemoryInput(few), out, shard_size=10, options=options)
    assert again.resumed == 2
    index = Path(uri) / FOLDER / NAME / "engine.json"
    index.write_text(index.read_text().replace(f'"pairs": {compared}', f'"pairs": {compared + 1}'))
    with pytest.raises(Exception, match="modified"):
        score(uri, MemoryInput(few), out, shard_size=10, options=options)
    parity = {**engine.parity, "pairs": compared + 1}
    store_engine(bundle, NAME, engine.files, parity, {}, overwrite=True)
    with pytest.raises(OutputExistsError, match=f"engine was .{identity}"):
        score(uri, MemoryInput(few), out, engine=NAME, shard_size=10, options=options)
