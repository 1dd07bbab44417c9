import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from derm_ray.bundle import load_bundle, save_bundle
from derm_ray.data.loading import load_all
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import PAPER15, image_cell
from derm_ray.errors import ConfigError
from derm_ray.inference.predictor import Predictor
from derm_ray.inference.saliency import require_cam
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network
from derm_ray.scoring.ledger import Run
from derm_ray.scoring.scorer import ShardScorer
from tests.conftest import take
from tests.unit.scoring.conftest import Opened


def scorer(run: Run, bundle_uri: str) -> ShardScorer:
    return ShardScorer(bundle_uri, "torch", run.out_uri, run.description, batch_size=4)


def rows(run: Run) -> dict[str, dict[str, object]]:
    return {row["pair_id"]: row for row in pq.read_table(run.out_uri).to_pylist()}


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


def test_hostile_images_are_rows_and_their_neighbors_are_scored(
    opened: Opened, pairs: Manifest, bundle_uri: str, tmp_path: Path
) -> None:
    first = take(pairs.absolute(), 10)
    good = Path(str(first.column("clinical_uri")[0])).read_bytes()
    bad = {
        "empty": b"",
        "not_an_image": b"<html>hello</html>",
        "corrupt": good[: len(good) // 2],
        "too_many_pixels": png_header(50_000, 50_000),
        "missing": None,
    }
    uris = list(first.column("clinical_uri"))
    for row, (code, data) in enumerate(bad.items()):
        uris[row] = str(tmp_path / f"{code}.jpg")
        if data is not None:
            Path(uris[row]).write_bytes(data)
    run = opened(first.with_column("clinical_uri", uris), out=str(tmp_path / "out"))
    outcome = scorer(run, bundle_uri).score(run.shards[0])
    assert (outcome.scored, outcome.errors) == (5, 5)
    found = [rows(run)[pair_id]["error_code"] for pair_id in first.column("pair_id")]
    assert found == [*bad, None, None, None, None, None]


def test_either_image_alone_is_scored_and_marked_and_flags_are_told(
    opened: Opened, pairs: Manifest, bundle_uri: str, tmp_path: Path
) -> None:
    first = take(pairs.absolute(), 3)
    frames = [Image.fromarray(np.full((32, 32, 3), 60 * i, np.uint8)) for i in range(1, 4)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    clinical, dermoscopy = list(first.column("clinical_uri")), list(first.column("dermoscopy_uri"))
    clinical[0], dermoscopy[1], clinical[2] = None, None, str(tmp_path / "moving.gif")
    first = first.with_column("clinical_uri", clinical).with_column("dermoscopy_uri", dermoscopy)
    run = opened(first, out=str(tmp_path / "out"))
    scorer(run, bundle_uri).score(run.shards[0])
    found = list(rows(run).values())
    assert [row["modality"] for row in found] == ["dermoscopy", "clinical", "both"]
    assert [row["flags"] for row in found] == [None, None, "clinical:animated"]
    assert {row["status"] for row in found} == {"ok"}


def test_a_lesion_of_several_images_is_one_row_that_says_over_how_many(
    opened: Opened, pairs: Manifest, bundle_uri: str, tmp_path: Path
) -> None:
    first = take(pairs.absolute(), 3)
    clinical = image_cell([str(uri) for uri in first.column("clinical_uri")])
    one = first.where([True, False, False]).with_column("clinical_uri", [clinical])
    alone = one.with_column("dermoscopy_uri", [None])
    found = []
    for number, manifest in enumerate((one, alone)):
        run = opened(manifest, out=str(tmp_path / f"out{number}"), per_input_predictions=True)
        scorer(run, bundle_uri).score(run.shards[0])
        found += rows(run).values()
    assert [(row["clinical_images"], row["dermoscopy_images"]) for row in found] == [(3, 1), (3, 0)]
    assert found[0]["clinical_melanoma"] == pytest.approx(found[1]["p_melanoma"], abs=1e-6)
    predictor = Predictor(load_bundle(bundle_uri), "torch")
    (chunk,) = load_all(one.pairs(), predictor.bundle.preprocessing, one.uri)
    assert found[0]["p_melanoma"] == pytest.approx(predictor.predict(chunk)[0].task_probabilities["melanoma"], abs=1e-6)


def test_overlays_lie_beside_the_scores(opened: Opened, pairs: Manifest, bundle_uri: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = NetworkConfig("triple", "tiny", "cam_bp", 15, cam=CamConfig("tiny", 15))
    weights = build_network(config).state_dict()
    uri = str(tmp_path / "cam_bp")
    save_bundle(uri, network=config, label_set=PAPER15, preprocessing=Preprocessing(32), weights=weights, provenance={})
    first = take(pairs.absolute(), 13)
    first = first.with_column("clinical_uri", [*first.column("clinical_uri")[:12], None])
    digest = load_bundle(uri).model_digest
    run = opened(first, out=str(tmp_path / "out"), saliency=True, model_digest=digest)
    for shard in run.shards:
        scorer(run, uri).score(shard)
    found = list(rows(run).values())
    assert found[0]["clinical_saliency"] == "_saliency/000000/000000000-clinical.png"
    assert found[12]["clinical_saliency"] is None
    for row in found:
        overlay = np.asarray(Image.open(Path(run.out_uri) / str(row["dermoscopy_saliency"])))
        assert overlay.shape == (32, 32, 3)
    with pytest.raises(ConfigError, match="saliency needs a model with head cam_bp"):
        require_cam(load_bundle(bundle_uri))
