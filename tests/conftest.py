"""Fixtures: synthetic pairs, a real S3 endpoint, a real local Ray, and one model, trained run and endpoint for all."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.data.reference import Reference
from derm_ray.data.splits import split_manifest
from derm_ray.data.synthetic import synthesize
from derm_ray.domain import MILK10K, PAPER15, Calibration, LabelSet, Modality, OperatingPoint, PredictionKind
from derm_ray.storage import read_bytes
from tests.patient import ENCODER, patient_bundle_uri, patient_encoder  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from derm_ray.data.patient import PatientEncoder
    from derm_ray.models.factory import NetworkConfig
    from derm_ray.registry import Registry

# Rays of tests listen on this machine's own address, and most of them without a token.
os.environ.setdefault("DERM_RAY_INSECURE_CLUSTER", "1")

BUCKET = "derm-ray-tests"
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from derm_ray.cli import main; main()",
]
"""The command as a terminal starts it: a shell's background jobs hand down an ignored SIGINT."""


ONE_PROCESS = {
    "endpoint": (
        "tests/attacks/",
        "tests/cluster/test_metrics.py",
        "tests/integration/test_drift.py",
        "tests/integration/test_page.py",
        "tests/integration/test_rollout.py",
        "tests/integration/test_scoring.py",
        "tests/integration/test_serving.py",
    ),
    "trained": ("tests/integration/test_engines.py", "tests/integration/test_training.py"),
}
"""Files that share what takes long to start; of several processes, one runs all of them."""


def _share(nodeid: str) -> str:
    path = nodeid.split("::", maxsplit=1)[0]
    return next((name for name, files in ONE_PROCESS.items() if path.startswith(files)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, let each process take a file after the other, or all that share something."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _share(nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray through a fixture, before ``-m`` selects; what takes long comes first.

    The shared endpoint starts after tests that have one of their own: a Ray serves one model at a time.
    """

    def rank(item: pytest.Item) -> tuple[bool, bool, bool]:
        fixtures = getattr(item, "fixturenames", ())
        if "ray_local" in fixtures:
            item.add_marker(pytest.mark.ray)
        return item.get_closest_marker("ray") is None, "served" in fixtures, _share(item.nodeid) not in ONE_PROCESS

    items.sort(key=rank)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """480 synthetic pairs on local disk, split."""
    manifest = split_manifest(synthesize(str(tmp_path_factory.mktemp("pairs")), 480, PAPER15)).manifest
    write_manifest(manifest, manifest.uri)
    return manifest


def take(manifest: Manifest, count: int) -> Manifest:
    """Return the first ``count`` rows."""
    return manifest.where([row < count for row in range(len(manifest))])


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A bucket on a real S3 endpoint; returns its URI. Ray workers started later reach it as well."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ |= settings
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}"
    server.stop()
    for name in settings:
        del os.environ[name]


@pytest.fixture(scope="session")
def ray_local(s3: str) -> Iterator[None]:
    """A real local Ray with four logical CPUs."""
    del s3  # its environment must be there before Ray's workers start
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112 - Ray's name; tests wait for what it exports
    import ray

    from derm_ray.runtime import ray_session

    with ray_session(num_cpus=4):
        assert ray.is_initialized()
        yield


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of the debug preset."""

    bundle_uri: str
    run_uri: str
    manifest: Manifest


@pytest.fixture(scope="session")
def trained(ray_local: None, pairs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A Triple-Net trained on the synthetic pairs by two workers."""
    from derm_ray.training.config import make_config
    from derm_ray.training.run.driver import train

    config = make_config("debug", {"epochs": 8})
    result = train(config, pairs, str(tmp_path_factory.mktemp("runs")), "trained", workers=2)
    return TrainedRun(result.bundle_uri, result.run_uri, pairs)


def seal_untrained(
    uri: str,
    config: "NetworkConfig",
    seed: int = 0,
    *,
    label_set: LabelSet = PAPER15,
    size: int = 48,
    calibration: Calibration | None = None,
    reference: Reference = (),
    patient: "PatientEncoder | None" = None,
) -> str:
    """Seal a model of random weights."""
    import torch

    from derm_ray.bundle import save_bundle
    from derm_ray.data.preprocessing import Preprocessing
    from derm_ray.models.factory import build_network

    torch.manual_seed(seed)
    network = build_network(config)
    for name, parameter in network.named_parameters():
        # Bilinear heads and networks of patient data begin at 0, where all answers are the same.
        if name.endswith("classifier.weight") or name == "patient.layers.2.weight":
            torch.nn.init.normal_(parameter, std=0.3)
    save_bundle(
        uri,
        network=config,
        label_set=label_set,
        preprocessing=Preprocessing(size),
        weights=network.state_dict(),
        provenance={"metrics": {"cross/accuracy": 0.5}},
        calibration=calibration,
        reference=reference,
        patient=patient,
    )
    return uri


@pytest.fixture(scope="session")
def bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sealed, untrained model with the tiny trunk."""
    from derm_ray.models.factory import NetworkConfig

    return seal_untrained(str(tmp_path_factory.mktemp("bundles") / "untrained"), NetworkConfig(trunk="tiny"))


@pytest.fixture(scope="session")
def cam_bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with maps."""
    from derm_ray.models.factory import CamConfig, NetworkConfig

    config = NetworkConfig("triple", "tiny", "cam_bp", 15, cam=CamConfig("tiny", 15))
    return seal_untrained(str(tmp_path_factory.mktemp("bundles") / "cam"), config)


@pytest.fixture(scope="session")
def served_model_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with maps, patient data and operating points: one that every probability reaches, one that none does."""
    from derm_ray.models.factory import CamConfig, NetworkConfig

    points = tuple(
        OperatingPoint(kind, task, target, threshold, 0.9, 0.5)
        for kind in PredictionKind
        for task in ("cancer", "melanoma")
        for target, threshold in ((0.9, 0.999), (0.95, 0.0001))
    )
    network = NetworkConfig("triple", "tiny", "cam_bp", 11, cam=CamConfig("tiny", 11), patient=ENCODER.width)
    uri, calibration = str(tmp_path_factory.mktemp("bundles") / "served"), Calibration(operating_points=points)
    return seal_untrained(uri, network, label_set=MILK10K, calibration=calibration, patient=ENCODER)


@dataclass(frozen=True)
class Served:
    """The endpoint that all tests share which only ask it."""

    url: str
    secret: str

    @property
    def bearer(self) -> dict[str, str]:
        """The header with its token."""
        return {"Authorization": f"Bearer {self.secret}"}


@pytest.fixture(scope="session")
def served(ray_local: None, served_model_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The shared endpoint; it starts after all tests that have one of their own."""
    from ray.util import list_named_actors

    from derm_ray.serving.arguments import ServeArguments
    from derm_ray.serving.endpoint import endpoint
    from derm_ray.serving.tokens import new_token

    # On a busy machine, the Serve of a test before may still be shutting down, and would end this one's proxy.
    while any(actor["name"].startswith("SERVE_") for actor in list_named_actors(all_namespaces=True)):
        time.sleep(0.5)
    secret, line = new_token("tests")
    tokens = tmp_path_factory.mktemp("served") / "tokens"
    tokens.write_text(line)
    arguments = ServeArguments(model=served_model_uri, engine="torch", tokens=str(tokens), rate=1e6)
    with endpoint(arguments, port=unused_port()) as started:
        yield Served(started.url, secret)


@pytest.fixture(scope="session")
def photos(pairs: Manifest) -> dict[str, bytes]:
    """The files of one pair, by the names of the form's fields."""
    pair = pairs.pairs()[0]
    return {str(modality): read_bytes(str(pair.uri(modality))) for modality in Modality}


def unused_port() -> int:
    """Return a TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    """A TCP port nobody listens on."""
    return unused_port()


@contextmanager
def running(*arguments: str, cwd: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command as a process of its own, ended with the block however that ends."""
    command = [str(Path(sys.executable).parent / "derm-ray"), *arguments]
    with subprocess.Popen(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()


RunCommand = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def derm_ray(tmp_path: Path) -> RunCommand:
    """Run the installed command in an empty folder, as a user does."""
    command = str(Path(sys.executable).parent / "derm-ray")

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [command, *arguments],
            cwd=tmp_path,
            env=os.environ | {"RAY_AUTH_MODE": "disabled"} | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@dataclass(frozen=True)
class RealData:
    """The parts of MILK10k and of ImageNet's VGG-16 that are not part of the project."""

    milk10k: str
    weights: str


@pytest.fixture(scope="session")
def real_data() -> RealData:
    """Real lesion pairs and weights, where the environment names them."""
    names = ("DERM_RAY_MILK10K", "DERM_RAY_VGG16_WEIGHTS")
    if missing := [name for name in names if not os.environ.get(name)]:
        pytest.skip(f"{' and '.join(missing)} not set")
    return RealData(*(os.environ[name] for name in names))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> "Callable[[Registry[Any], str, object], None]":
    """Return what adds a thing to a registry for one test."""

    def add(registry: "Registry[Any]", name: str, thing: object) -> None:
        monkeypatch.setattr(registry, "_found", dict(registry._things()))
        registry.add(name, thing)

    return add
