"""What a lost machine costs in training, scoring and serving."""

import json
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from tests.cost_model import Costs
from tests.rehearsal.conftest import ROOT, Rehearsal, wait_for
from tests.rehearsal.network import Machine
from tests.rehearsal.runs import Run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TRAINER = "RayTrainWorker"
COPIES = 16
SHARD = 64
CALLERS = 4
COSTS = ROOT / "docs/benchmarks/scaling/costs.json"


@pytest.fixture(scope="module")
def data(cluster: Rehearsal) -> Rehearsal:
    """The cluster with the document's pairs."""
    if "at your desk: pairs, split" not in cluster.said:
        cluster.type_block("at your desk: pairs, split")
    return cluster


@pytest.fixture(scope="module")
def unbroken(data: Rehearsal) -> list[float]:
    """The losses of a run that loses nothing."""
    with Run(data, "unbroken").begun() as run:
        pass
    assert len(run.losses()) > 20
    return run.losses()


def processes(machine: Machine, *words: str) -> list[psutil.Process]:
    found = []
    for process in machine.processes():
        try:
            if all(word in " ".join(process.cmdline()) for word in words):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def trainer(cluster: Rehearsal) -> Machine:
    machine = cluster.machine_with(TRAINER)
    assert machine is not None
    return machine


def test_a_machine_lost_in_training(data: Rehearsal, unbroken: list[float]) -> None:
    with Run(data, "lost").begun() as run:
        run.wait_for(lambda: 2 in run.epochs, "two epochs")
        machine = trainer(data)
        machine.lose()
    print(f"machine lost: epoch 3 came {run.delay_s(3):.1f} s late, an epoch takes {run.epoch_s():.1f} s")
    data.replace(machine)
    assert "resuming after epoch" in run.said()
    assert run.losses() == pytest.approx(unbroken, rel=1e-4)
    assert run.delay_s(3) <= run.epoch_s() + 60


def test_a_machine_that_gives_notice(data: Rehearsal, unbroken: list[float]) -> None:
    with Run(data, "notice").begun() as run:
        run.wait_for(lambda: 2 in run.epochs, "two epochs")
        machine = trainer(data)
        (ray,) = processes(machine, "ray start", "--block")
        ray.send_signal(signal.SIGTERM)
        run.wait_for(lambda: "is about to be preempted" in run.said(), "the notice", 60)
        wait_for(lambda: not processes(machine, "raylet"), "the machine's end", 120)
    data.replace(machine)
    saved, resumed = (
        re.search(words, run.said())
        for words in (r"saving epoch (\d+), step (\d+)", r"resuming at epoch (\d+), step (\d+)")
    )
    assert saved is not None, run.said()
    assert resumed is not None, run.said()
    assert (saved[1], int(saved[2]) + 1) == (resumed[1], int(resumed[2]))
    print(f"notice: {run.delay_s(int(saved[1])):.1f} s late, an epoch takes {run.epoch_s():.1f} s")
    assert run.losses() == pytest.approx(unbroken, rel=1e-4)


def test_a_worker_that_stands_still(data: Rehearsal, unbroken: list[float]) -> None:
    """Seen by its own watchdog or its peer's where they are at a step, by Ray Train's polls where they report."""

    def logs() -> set[Path]:
        return set(data.head.disk.glob("ray/session_2*/logs/train/*controller*.log"))

    def seen() -> bool:
        words = "health check has been hanging"
        return "stood still" in run.said() or any(words in log.read_text() for log in logs() - before)

    before = logs()

    with Run(data, "still").begun() as run:
        run.wait_for(lambda: 1 in run.epochs, "an epoch")
        (stopped, *_) = processes(trainer(data), TRAINER)
        stopped.send_signal(signal.SIGSTOP)
        begun = time.time()
        detected = run.wait_for(seen, "that it is seen", 120)
        ended = wait_for(lambda: not stopped.is_running() or stopped.status() == "zombie", "its end", 120)
    print(f"stopped worker: seen after {detected - begun:.1f} s, ended after {ended - begun:.1f} s")
    assert 30 <= detected - begun <= 60
    assert run.losses() == pytest.approx(unbroken, rel=1e-4)


def test_a_driver_that_is_killed(data: Rehearsal, unbroken: list[float]) -> None:
    run = Run(data, "driver")
    with data.begin(run.script, "driver-first") as first:
        wait_for(lambda: len(run.workers()) >= 2, "two epochs")
        for driver in processes(data.head, "derm_ray", "train", "driver"):
            driver.kill()
        assert first.wait(120) == 1
    with run.begun():
        pass
    assert "resuming after epoch" in run.said()
    assert run.losses() == pytest.approx(unbroken, rel=1e-4)


def test_as_many_workers_as_there_are_machines(data: Rehearsal, unbroken: list[float]) -> None:
    with Run(data, "elastic", "--workers 1 --max-workers 3 --cpus-per-worker 2 --set epochs=16").begun() as run:
        run.wait_for(lambda: run.workers()[-1:] == [3], "an epoch of three workers")
        machine = trainer(data)
        machine.lose()
        run.wait_for(lambda: run.workers()[-1:] == [2], "an epoch of two workers")
        data.replace(machine)
    print(f"elastic: workers by epoch {run.workers()}")
    assert run.workers()[-1] == 3
    assert run.losses()[: len(unbroken)] == pytest.approx(unbroken, rel=1e-3)


def requests(lines: list[str]) -> Counter[str]:
    """Count what the storage's log says it was asked, by method; listings are ``LIST``."""
    found = (re.search(r'"\S*?([A-Z]+) (/\S*) HTTP', line) for line in lines)
    return Counter("LIST" if "list-type=" in one[2] else one[1] for one in found if one is not None)


@pytest.mark.usefixtures("unbroken")
def test_a_machine_lost_in_scoring(data: Rehearsal, tmp_path: Path) -> None:
    repeat = (
        "import pandas as pd; m = pd.read_parquet('s3://rehearsal/pairs/manifest.parquet');"
        f"m = pd.concat([m.assign(pair_id=m.pair_id + '-' + str(n), lesion_id=m.lesion_id + '-' + str(n)) for n in range({COPIES})]);"
        "m.to_parquet('s3://rehearsal/pairs/archive.parquet')"
    )
    data.type(f'python -c "{repeat}"')
    script = (
        "derm-ray submit score --address http://127.0.0.1:8265 --wait -- --model $BUCKET/runs/unbroken/bundle "
        f"--input $BUCKET/pairs/archive.parquet --out $BUCKET/lost-scores --shard-size {SHARD} --engine torch"
    )

    def parts() -> Counter[str]:
        return Counter(re.findall(r'"PUT /rehearsal/lost-scores/(part-[^ ?]+)', data.log("storage")))

    before = len(data.log("storage").splitlines())
    with data.begin(script, "scoring") as process:
        wait_for(lambda: len(parts()) >= 20, "20 parts")
        machine = data.machine_with("ScoringActor")
        assert machine is not None
        machine.lose()
        assert process.wait(900) == 0, data.log("scoring")
    twice = sum(count - 1 for count in parts().values())
    asked = requests(data.log("storage").splitlines()[before:])
    costs = Costs.from_json(json.loads(COSTS.read_text())).requests
    expected = {method: cost.of(len(parts()), 480 * COPIES) for method, cost in costs.items()}
    print(f"scoring: {len(parts())} parts, {twice} written twice")
    for method, count in expected.items():
        print(f"  {method}: {asked[method]:,} requests, {count:,.0f} by docs/benchmarks/scaling.md")
    data.replace(machine)
    data.type("derm-ray verify $BUCKET/lost-scores")
    data.type(
        f"python -c \"import fsspec; f = fsspec.filesystem('s3'); f.get('rehearsal/lost-scores/', '{tmp_path}/', recursive=True)\""
    )
    scores = pq.read_table([str(part) for part in tmp_path.glob("**/part-*.parquet")]).to_pandas()
    assert len(scores) == scores["pair_id"].nunique() == 480 * COPIES
    assert set(scores["status"]) == {"ok"}
    spread = scores.assign(lesion=scores["pair_id"].str.rsplit("-", n=1).str[0]).groupby("lesion")["p_melanoma"]
    assert (spread.max() - spread.min()).max() < 1e-5
    assert twice <= 2 * 6
    assert expected["GET"] <= asked["GET"] <= 1.15 * expected["GET"]


@pytest.mark.usefixtures("unbroken")
def test_a_machine_lost_in_serving(data: Rehearsal) -> None:
    if "on the head: a caller's token" not in data.said:
        data.type_block("on the head: a caller's token")
    token = (data.folder / "home/token-of-clinic-1").read_text().split(": ")[1].strip()
    data.type("derm-ray data synthesize --out photos --pairs 1")
    photos = {m: (data.folder / f"photos/images/SYN_000000/{m}.jpg").read_bytes() for m in ("clinical", "dermoscopy")}
    serving = data.block("on the head, for as long as it answers").script.replace("runs/first/", "runs/unbroken/")
    answers: list[tuple[float, float, int]] = []
    ended = threading.Event()

    def call() -> None:
        with httpx.Client(timeout=60, headers={"Authorization": f"Bearer {token}"}) as client:
            while not ended.is_set():
                begun = time.time()
                try:
                    status = client.post(f"http://{data.head.address}:8000/v1/score", files=photos).status_code
                except httpx.HTTPError:
                    status = 0
                answers.append((begun, time.time(), status))
                time.sleep(0.5)

    with data.stay(data.head, serving + " --rate 1000", "serve-lost") as process:
        try:
            wait_for(lambda: "listening on" in data.log("serve-lost"), "the endpoint", 180)
            callers = [threading.Thread(target=call) for _ in range(CALLERS)]
            for caller in callers:
                caller.start()
            time.sleep(10)
            machine = data.machine_with("ServeReplica:derm_ray:ModelReplica")
            assert machine is not None
            machine.lose()
            lost = time.time()
            time.sleep(60)
            ended.set()
            for caller in callers:
                caller.join()
        finally:
            ended.set()
            process.terminate()
    failed = [(begun - lost, end - lost, status) for begun, end, status in answers if status != 200]
    slowest = max(end - begun for begun, end, _ in answers)
    print(f"serving: {len(answers)} answers, slowest {slowest:.1f} s, failed (begin, end, status) {failed}")
    data.replace(machine)
    assert sum(begun < lost for begun, _, _ in answers) > 10
    assert sum(begun > lost + 30 for begun, _, _ in answers) > 10
    assert len(failed) <= CALLERS
