"""Decoding in actors of its own gives the output of the fused path."""

import io
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest

from derm_ray import storage
from derm_ray.data.inputs import Input, open_input
from derm_ray.data.manifest import Manifest
from derm_ray.domain import Modality
from derm_ray.errors import ScoringError
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.scoring.reconcile import verify
from tests.conftest import take
from tests.inputs import MemoryInput

pytestmark = pytest.mark.ray
PAIRS, SHARD = 90, 40
FUSED, SPLIT = ScoringOptions(replicas=1), ScoringOptions(replicas=1, decoders=2)


@pytest.fixture(autouse=True)
def small_chunks(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 pairs, so that a whole shard is two chunks."""
    monkeypatch.setattr("derm_ray.scoring.pipeline.CHUNK_BYTES", 32 * 2 * 3 * 48**2)


@pytest.fixture
def mixed(pairs: Manifest, tmp_path: Path) -> Manifest:
    """Pairs with one image, and a missing and a cut-off one."""
    few = take(pairs.absolute(), PAIRS)
    clinical, dermoscopy = list(few.column("clinical_uri")), list(few.column("dermoscopy_uri"))
    (tmp_path / "cut.jpg").write_bytes(storage.read_bytes(str(clinical[3]))[:1500])
    clinical[3], clinical[20], dermoscopy[35], dermoscopy[36] = str(tmp_path / "cut.jpg"), None, None, "/nowhere.jpg"
    return few.with_column("clinical_uri", clinical).with_column("dermoscopy_uri", dermoscopy)


def manifest(few: Manifest, place: Path) -> Input:
    return MemoryInput(few)


def archive(name: str) -> Callable[[Manifest, Path], Input]:
    def pack(few: Manifest, place: Path) -> Input:
        with tarfile.open(place / name, f"w:{'gz' if name.endswith('gz') else ''}") as file:
            for pair in few.pairs():
                for modality in Modality:
                    uri = pair.uri(modality)
                    if uri is not None and uri != "/nowhere.jpg":
                        data = storage.read_bytes(uri)
                        entry = tarfile.TarInfo(f"{pair.pair_id}.{modality}.jpg")
                        entry.size = len(data)
                        file.addfile(entry, io.BytesIO(data))
        return open_input(str(place / name))

    return pack


def files(out: Path) -> dict[str, bytes]:
    """Overlays as they are; parts without their times."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.suffix == ".png":
            found[path.name] = path.read_bytes()
        elif path.name.startswith("part-") and path.suffix == ".parquet":
            found[path.name] = repr(pq.read_table(path).drop_columns("scored_at").to_pydict()).encode()
        elif path.name.startswith("part-"):
            frame = pd.read_csv(path, dtype=str).drop(columns="scored_at")
            found[path.name] = frame.to_csv().encode()
    return found


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        pytest.param(manifest, {"per_input_predictions": True}, id="parquet", marks=pytest.mark.slow),
        pytest.param(manifest, {"output_format": "csv"}, id="csv", marks=pytest.mark.slow),
        pytest.param(manifest, {"saliency": True}, id="saliency", marks=pytest.mark.slow),
        pytest.param(archive("a.tar"), {}, id="tar", marks=pytest.mark.slow),
        pytest.param(archive("a.tar.gz"), {}, id="tar.gz", marks=pytest.mark.slow),
    ],
)
def test_the_output_is_that_of_the_fused_path(
    source: Callable[[Manifest, Path], Input],
    arguments: dict[str, object],
    mixed: Manifest,
    bundle_uri: str,
    cam_bundle_uri: str,
    tmp_path: Path,
) -> None:
    model, given = cam_bundle_uri if "saliency" in arguments else bundle_uri, source(mixed, tmp_path)
    outs = [tmp_path / "fused", tmp_path / "split"]
    for out, options in zip(outs, (FUSED, SPLIT), strict=True):
        result = score(model, given, str(out), engine="torch", shard_size=SHARD, options=options, **arguments)  # type: ignore[arg-type]
        assert result.counts.errors >= 1
    fused, split = map(files, outs)
    assert list(fused) == list(split)
    assert fused == split
    assert verify(str(outs[1])).pairs == result.counts.pairs
    (record,) = storage.read_json(str(outs[1] / "_report.json"))["invocations"]
    assert all(record["stages"].values())


def test_either_way_resumes_the_other_with_the_same_output_and_tries_errors_again(
    mixed: Manifest, bundle_uri: str, tmp_path: Path
) -> None:
    lost, out = tmp_path / "later.jpg", tmp_path / "out"
    uris = list(mixed.column("dermoscopy_uri"))
    source = MemoryInput(mixed.with_column("dermoscopy_uri", [*uris[:36], str(lost), *uris[37:]]))
    assert score(bundle_uri, source, str(out), engine="torch", shard_size=SHARD, options=FUSED).resumed == 0
    fused = files(out)
    for part in sorted(out.glob("part-*"))[:2]:
        part.unlink()
    assert score(bundle_uri, source, str(out), engine="torch", shard_size=SHARD, options=SPLIT).resumed == 1
    assert files(out) == fused
    assert all(storage.read_json(str(out / "_report.json"))["invocations"][-1]["stages"].values())

    lost.write_bytes(storage.read_bytes(str(uris[0])))
    again = ScoringOptions(replicas=1, retry_errors=True)
    result = score(bundle_uri, source, str(out), engine="torch", shard_size=SHARD, options=again)
    assert (result.counts.scored, result.counts.errors, result.resumed) == (89, 1, 2)


@pytest.mark.slow
def test_a_part_that_cannot_be_written_stops_the_run_resumably(
    mixed: Manifest, bundle_uri: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score(bundle_uri, MemoryInput(mixed), str(out), engine="torch", shard_size=SHARD, options=SPLIT)
    part = sorted(out.glob("part-*"))[0]
    part.unlink()
    part.mkdir()
    (part / "in the way").write_text("x")
    with pytest.raises(ScoringError, match=r"shard 0: .*The same command resumes"):
        score(bundle_uri, MemoryInput(mixed), str(out), engine="torch", shard_size=SHARD, options=SPLIT)


@pytest.mark.slow
def test_a_decoder_that_is_killed_twice_amid_a_shard_changes_nothing(
    pairs: Manifest, bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray repeats its call, of which it has given on a part: here 120 chunks of four pairs, at last one by one."""
    source = MemoryInput(pairs.absolute())
    outs = [tmp_path / "fused", tmp_path / "split"]
    score(bundle_uri, source, str(outs[0]), engine="torch", shard_size=480, options=FUSED)
    monkeypatch.setattr("derm_ray.scoring.pipeline.CHUNK_BYTES", 4 * 2 * 3 * 48**2)
    record, amid = outs[1] / "_run" / "attempts" / "000000.json", []

    def kill() -> None:
        for attempt in (1, 2):
            while not record.exists() or storage.read_json(str(record))["attempts"] < attempt:
                time.sleep(0.01)
            time.sleep(0.2)
            for process in psutil.Process().children(recursive=True):
                if any("DecodingActor" in word for word in process.cmdline()):
                    process.kill()
                    process.wait()
            amid.append(record.exists())

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    score(bundle_uri, source, str(outs[1]), engine="torch", shard_size=480, options=SPLIT)
    killer.join(10)
    assert amid == [True, True]
    fused, split = (
        pd.read_parquet(out).drop(columns="scored_at").sort_values("pair_id", ignore_index=True) for out in outs
    )
    pd.testing.assert_frame_equal(split, fused, check_exact=False, rtol=0, atol=1e-5)
    assert not list(record.parent.glob("*"))
