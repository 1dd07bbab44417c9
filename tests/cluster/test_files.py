"""The cluster files are sound, and say the same versions, names and commands as the code and as each other."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer.main
import yaml

from derm_ray import __version__
from derm_ray.cli import app
from derm_ray.cli.cluster import check_words
from derm_ray.operations.cluster.commands import JOBS
from derm_ray.operations.cluster.validation import validate_file

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = sorted(CLUSTER.glob("*/*.yaml"))
KUBERAY = [path for path in FILES if path.parent.name == "kuberay"]


def test_all_files_are_sound(crds: str | None) -> None:
    root = typer.main.get_command(app)
    reports = [validate_file(str(path), lambda words: check_words(root, words), crds) for path in FILES]
    assert [str(problem) for report in reports for problem in report.problems] == []
    unchecked = [reason for report in reports for reason in report.unchecked if "PodMonitor" not in reason]
    assert bool(unchecked) == (crds is None), "fields of KubeRay's kinds are checked with its definitions only"
    kinds = {content.split()[0] for report in reports for content in report.contents}
    assert kinds >= {"RayCluster", "RayJob", "RayService", "RayCronJob", "NetworkPolicy", "PodDisruptionBudget"}
    assert "ServiceAccount" in kinds
    assert kinds >= {"launcher", "Serve", "PodMonitor", "Prometheus"}


def test_images_manifests_and_installations_name_one_ray_and_one_derm_ray() -> None:
    docker = (CLUSTER / "Dockerfile").read_text()
    ray, ours = version("ray"), __version__
    assert f"ray=={ray} " in (ROOT / "requirements.txt").read_text()
    assert re.findall(r"^ARG RAY=(\S+)", docker, re.MULTILINE) == [f"{ray}-py311"]
    assert set(re.findall(r"^FROM (\S+)", docker, re.MULTILINE)) == {"rayproject/ray:${RAY}"}
    tags = {f"{ours}-ray{ray}-{target}" for target in ("cpu", "cuda")}
    assert set(re.findall(r"-t REGISTRY/derm-ray:(\S+)", docker)) == tags
    text = "\n".join(path.read_text() for path in KUBERAY)
    assert set(re.findall(r"derm-ray:(\S+)", text)) == tags
    assert set(re.findall(r"rayVersion: (\S+)", text)) == {f'"{ray}"'}
    for path in CLUSTER.glob("launcher/*.yaml"):
        assert "--require-hashes --requirement ~/derm_ray/requirements.txt" in path.read_text()
        assert set(re.findall(r"boto3==\S+", path.read_text())) <= set(
            (ROOT / "requirements-dev.txt").read_text().split()
        )
        assert set(re.findall(r"derm_ray-([\d.]+)-py3", path.read_text())) == {ours}


def test_gpu_groups_use_the_cuda_image_and_no_other_pod_does() -> None:
    for pod in pods():
        for container in pod["spec"]["containers"]:
            gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert container["image"].endswith("-cuda" if gpu else "-cpu")


def test_pods_state_what_they_need_and_have_time_to_drain() -> None:
    for pod in pods():
        for container in pod["spec"]["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys()
            assert resources["limits"]["memory"] == resources["requests"]["memory"]
            assert resources["limits"].get("nvidia.com/gpu") == resources["requests"].get("nvidia.com/gpu")
            variables = {one["name"]: one.get("value") for one in container.get("env", [])}
            drain = int(variables.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 0))
            assert pod["spec"].get("terminationGracePeriodSeconds", 30) > drain


def test_clusters_of_jobs_end_with_them_and_groups_have_a_limit() -> None:
    for path in KUBERAY:
        for document in yaml.safe_load_all(path.read_text()):
            spec = document.get("spec", {})
            if document["kind"] in ("RayJob", "RayCronJob"):
                spec = spec.get("jobTemplate", spec)
                assert spec["shutdownAfterJobFinishes"] is True
            cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
            assert all("maxReplicas" in group for group in cluster.get("workerGroupSpecs", []))


def test_the_docker_build_may_read_what_it_copies() -> None:
    docker = (CLUSTER / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name
        for line in re.findall(r"^COPY (.*)$", docker, re.MULTILINE)
        for name in line.split()[:-1]
        if not name.startswith("--")
    }
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert docker.count("USER 1000:100") == 2


def test_policies_and_budgets_select_pods_that_there_are() -> None:
    labels = [pod["metadata"]["labels"] for pod in pods()]
    assert len(labels) > 10
    for name in ("network-policy.yaml", "pod-disruption-budget.yaml"):
        for document in yaml.safe_load_all((CLUSTER / "kuberay" / name).read_text()):
            spec = document["spec"]
            wanted = (spec.get("podSelector") or spec["selector"])["matchLabels"]
            assert any(wanted.items() <= held.items() for held in labels), document["metadata"]["name"]
    shared = {"app.kubernetes.io/part-of": "derm-ray"}
    assert all(shared.items() <= held.items() for held in labels)


def test_the_dashboard_is_open_to_the_operator_and_the_client_to_nobody() -> None:
    for document in yaml.safe_load_all((CLUSTER / "kuberay/network-policy.yaml").read_text()):
        for rule in document["spec"].get("ingress", []):
            ports = {port["port"] for port in rule.get("ports", [])}
            sources = str(rule["from"])
            assert not ports & {10001, 6379}
            assert 8265 not in ports or "kuberay-system" in sources
            assert ports or "part-of" in sources


def test_heads_and_workers_have_the_account_that_a_role_is_bound_to() -> None:
    account = yaml.safe_load((CLUSTER / "kuberay/service-account.yaml").read_text())
    for pod in pods():
        wanted = None if pod["metadata"]["labels"]["derm-ray/role"] == "submit" else account["metadata"]["name"]
        assert pod["spec"].get("serviceAccountName") == wanted


def test_pods_reach_dns_and_their_credentials_where_clouds_keep_them() -> None:
    policy = next(yaml.safe_load_all((CLUSTER / "kuberay/network-policy.yaml").read_text()))
    reached = {
        (peer["ipBlock"]["cidr"], port["port"], port.get("protocol", "TCP"))
        for rule in policy["spec"]["egress"]
        for peer in rule.get("to", [])
        if "ipBlock" in peer
        for port in rule["ports"]
    }
    for address in ("169.254.20.10/32", "169.254.169.254/32"):
        assert {(address, 53, "UDP"), (address, 53, "TCP")} <= reached
    assert {("169.254.170.23/32", 80, "TCP"), ("169.254.169.254/32", 80, "TCP")} <= reached
    assert ("169.254.169.252/32", 988, "TCP") in reached


def test_machines_of_aws_get_their_own_group_and_only_the_head_may_start_others() -> None:
    launcher = yaml.safe_load((CLUSTER / "launcher/aws.yaml").read_text())
    assert "security_group" not in launcher["provider"]
    configs = {name: kind["node_config"] for name, kind in launcher["available_node_types"].items()}
    assert all(config["SecurityGroupIds"] for config in configs.values())
    head = configs.pop(launcher["head_node_type"])["IamInstanceProfile"]
    assert all(config["IamInstanceProfile"] != head for config in configs.values())


def test_a_head_may_not_be_evicted_while_its_job_runs() -> None:
    budgets = [
        document["spec"]["selector"]["matchLabels"]
        for document in yaml.safe_load_all((CLUSTER / "kuberay/pod-disruption-budget.yaml").read_text())
    ]
    heads = [pod["metadata"]["labels"] for pod in pods() if pod["metadata"]["labels"]["derm-ray/role"] == "head"]
    assert len(heads) == 5
    for held in heads:
        assert any(wanted.items() <= held.items() for wanted in budgets)


def test_jobs_are_those_of_the_folder() -> None:
    assert set(JOBS) == {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
    for name, command in JOBS.items():
        assert f'"derm-ray", "{command}"' in (ROOT / "jobs" / f"{name}.py").read_text()


def pods() -> list[dict[str, Any]]:
    """Every pod template of our files."""

    def find(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [pod for one in value for pod in find(one)]
        if not isinstance(value, dict):
            return []
        if "containers" in value.get("spec", {}):
            return [value]
        return [pod for one in value.values() for pod in find(one)]

    return [pod for path in KUBERAY for document in yaml.safe_load_all(path.read_text()) for pod in find(document)]
