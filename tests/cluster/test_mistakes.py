"""Our own files with one mistake each: every one is refused, at its place, and for the right reason."""

from typing import Any

import pytest
from kubernetes_validate import latest_version

from tests.cluster.conftest import GONE, Changed

TRAIN, SCORE, NIGHTLY, SERVE, SHARED = (
    f"kuberay/{name}.yaml" for name in ("train", "score", "nightly", "serve", "raycluster")
)
POLICY, BUDGET = "kuberay/network-policy.yaml", "kuberay/pod-disruption-budget.yaml"
ACCOUNT = "kuberay/service-account.yaml"
BARE, AWS = "launcher/bare.yaml", "launcher/aws.yaml"
CLUSTER = "spec.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec"
POD = f"{HEAD}.template.spec"
GROUP = f"{CLUSTER}.workerGroupSpecs[0]"
WORKER = f"{GROUP}.template.spec"
SUBMIT = "spec.submitterPodTemplate.spec"


def replaced(old: str, new: str) -> Any:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


KUBERAY: list[tuple[str, str, Any, str]] = [
    (TRAIN, "spec.entrypiont", "ls", "spec.entrypiont: unknown field 'entrypiont'. Did you mean 'entrypoint'?"),
    (TRAIN, f"{GROUP}.minReplica", 1, "minReplica: unknown field 'minReplica'. Did you mean 'minReplicas'?"),
    (TRAIN, f"{WORKER}.containers[0].resource", {}, "unknown field 'resource'. Did you mean 'resources'?"),
    (TRAIN, "metadata.lables", {}, "metadata.lables: unknown field 'lables'. Did you mean 'labels'?"),
    (TRAIN, f"{GROUP}.groupName", GONE, "workerGroupSpecs[0].groupName: is missing"),
    (TRAIN, f"{CLUSTER}.headGroupSpec", GONE, "spec.rayClusterSpec.headGroupSpec: is missing"),
    (TRAIN, f"{HEAD}.rayStartParams.num-cpus", 0, "num-cpus: 0 is not string; write it in quotes"),
    (TRAIN, f"{GROUP}.maxReplicas", "four", "maxReplicas: 'four' is not integer"),
    (TRAIN, f"{POD}.containers[0].resources.requests.cpu", "2 cores", "requests.cpu: '2 cores' does not match"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.version", "v3", "version: 'v3' is not allowed; choose one of: v1, v2"),
    (NIGHTLY, "spec.concurrencyPolicy", "Forbid", "spec.concurrencyPolicy: unknown field 'concurrencyPolicy'"),
    (NIGHTLY, "spec.schedule", GONE, "spec.schedule: is missing"),
    (SERVE, "spec.rayClusterSpec", {}, "spec.rayClusterSpec: unknown field 'rayClusterSpec'. Did you mean 'rayCl"),
    (SERVE, "spec.serveConfigV2", {}, "spec.serveConfigV2: {} is not string"),
]
KUBERNETES: list[tuple[str, str, Any, str]] = [
    (BUDGET, "spec.minAvailabel", 1, "spec.minAvailabel: unknown field 'minAvailabel'. Did you mean 'minAvailable'?"),
    (ACCOUNT, "automountServiceAccountTokn", True, "unknown field 'automountServiceAccountTokn'. Did you mean"),
    (ACCOUNT, "metadata.name", GONE, "metadata.name: is missing"),
    (ACCOUNT, "kind", "ServiceAcount", f"kind: Kubernetes {latest_version()} has no ServiceAcount in v1; see"),
    (ACCOUNT, "apiVersion", "v2", f"kind: Kubernetes {latest_version()} has no ServiceAccount in v2"),
    (ACCOUNT, "apiVersion", "../../v1", "apiVersion: '../../v1' has no kind 'ServiceAccount'"),
    (ACCOUNT, "kind", "Affinity", f"kind: Kubernetes {latest_version()} has no Affinity in v1"),
    (POLICY, "spec.ingress[0].ports", "http", "spec.ingress[0].ports: 'http' is not array; give array"),
    (SHARED, "apiVersion", "ray.io/v1alpha1", "apiVersion: 'ray.io/v1alpha1' has no RayCluster; set apiVersion: ray"),
    (SHARED, "kind", "RayClusters", "kind: unknown kind 'RayClusters'. Did you mean 'RayCluster'?; known: "),
    (SHARED, "kind", "Secret", "kind: a secret does not belong in a file; create it with kubectl create secret"),
]
OURS: list[tuple[str, str, Any, str]] = [
    (TRAIN, CLUSTER, GONE, "spec.rayClusterSpec: neither this nor clusterSelector is given"),
    (TRAIN, f"{CLUSTER}.rayVersion", "2.59.0", "rayVersion: is 2.59.0, the installed Ray is 2.60.0; set rayV"),
    (TRAIN, f"{POD}.containers[0].image", "r/derm-ray:0.1.0-ray2.59.0-cpu", "image: the image contains Ray 2.59.0"),
    (TRAIN, f"{POD}.containers[0].image", "r/derm-ray:0.0.9-ray2.60.0", "image: the image contains derm_ray 0.0.9"),
    (TRAIN, f"{WORKER}.containers[0].image", "r:5000/derm-ray", "image: the image r:5000/derm-ray has no tag"),
    (TRAIN, f"{WORKER}.containers[0].image", "r/derm-ray:latest", "the tag latest does not name the versions"),
    (TRAIN, f"{SUBMIT}.containers[0].image", "rayproject/ray:2.52.0", "image: the image contains Ray 2.52.0"),
    (TRAIN, f"{CLUSTER}.authOptions", GONE, "authOptions.mode: anyone who reaches the cluster can run code on it"),
    (TRAIN, f"{CLUSTER}.authOptions.mode", "disabled", "authOptions.mode: anyone who reaches the cluster can run code on it"),
    (TRAIN, "spec.entrypoint", "derm-ray train --manifset x", "spec.entrypoint: derm-ray train: No such option: --man"),
    (TRAIN, "spec.entrypoint", "derm-ray trian", "spec.entrypoint: unknown command 'trian'; Did you mean 'train'?"),
    (TRAIN, "spec.entrypoint", "python -m jobs.trian --gpu", "spec.entrypoint: unknown job 'trian'; Did you mean"),
    (TRAIN, "spec.entrypoint", "python train.py", "spec.entrypoint: 'python' does not start derm_ray"),
    (TRAIN, "spec.entrypoint", "", "spec.entrypoint: there is no command"),
    (TRAIN, "spec.entrypoint", "derm-ray train --help", "spec.entrypoint: --help runs nothing; remove it"),
    (TRAIN, "spec.entrypoint", "derm-ray verify s3://a:b@c/d", "spec.entrypoint: argument 2 holds a password in a URI"),
    (TRAIN, "spec.entrypoint", "derm-ray serve --model s3://b/m", "spec.entrypoint: serve is not a job; use a RayService"),
    (TRAIN, "spec.entrypoint", "derm-ray verify s3://b/o; ls", "spec.entrypoint: is more than one command to a shell"),
    (TRAIN, "spec.entrypoint", "derm-ray verify 's3://b/o", "spec.entrypoint: cannot be split into words"),
    (TRAIN, "spec.entrypoint", replaced("s3://BUCKET/runs", "runs"), "spec.entrypoint: --out runs: relative to this"),
    (TRAIN, "spec.submitterPodTemplate", GONE, "submitterPodTemplate: the operator's default submitter pod may run"),
    (TRAIN, "spec.runtimeEnvYAML", "env_vars: {A: b", "spec.runtimeEnvYAML > the document: this is not YAML"),
    (TRAIN, "spec.runtimeEnvYAML", "env_var: {}", "runtimeEnvYAML > env_var: unknown field 'env_var'. Did you mean 'env_v"),
    (TRAIN, "spec.runtimeEnvYAML", "env_vars: {API_TOKEN: abc}", "env_vars.API_TOKEN: API_TOKEN looks like a secret"),
    (TRAIN, "spec.runtimeEnvYAML", "working_dir: .", "working_dir: is a folder on this machine only"),
    (TRAIN, "spec.runtimeEnvYAML", "env_vars: {A: 1}", "runtimeEnvYAML > the document: "),
    (TRAIN, f"{POD}.securityContext.runAsNonRoot", False, "securityContext.runAsNonRoot: the container may run as root"),
    (TRAIN, f"{POD}.securityContext.runAsUser", 0, "runAsUser: names no user id other than root's"),
    (TRAIN, f"{WORKER}.securityContext", GONE, "runAsNonRoot: the container may run as root"),
    (TRAIN, f"{WORKER}.securityContext.seccompProfile", GONE, "seccompProfile.type: system calls are not filtered"),
    (TRAIN, f"{WORKER}.containers[0].securityContext", GONE, "allowPrivilegeEscalation: the container may gain priv"),
    (TRAIN, f"{WORKER}.containers[0].securityContext.privileged", True, "privileged: the container controls the node"),
    (TRAIN, f"{WORKER}.containers[0].securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}, "the container gets the capability SYS_PTRACE"),
    (TRAIN, f"{WORKER}.containers[0].securityContext.capabilities", {}, "drop: the container keeps capabilities"),
    (TRAIN, f"{SUBMIT}.containers[0].securityContext", GONE, "allowPrivilegeEscalation: the container may gain privil"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.securityContext", GONE, "autoscalerOptions.securityContext.allowPrivilegeEsc"),
    (TRAIN, f"{WORKER}.hostNetwork", True, "hostNetwork: shares a namespace of the node"),
    (TRAIN, f"{WORKER}.volumes", [{"name": "v", "hostPath": {"path": "/"}}], "hostPath: mounts a folder of the node"),
    (TRAIN, f"{POD}.containers[0].env[1]", {"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}, "env[1].value: AWS_SECRET_ACCESS_KEY looks like a secret"),
    (TRAIN, f"{WORKER}.containers[0].env[1]", {"name": "RAY_AUTH_MODE", "value": "disabled"}, "leaves the cluster open"),
    (TRAIN, f"{POD}.automountServiceAccountToken", False, "the autoscaler beside the head cannot reach Kubernetes"),
    (TRAIN, f"{WORKER}.automountServiceAccountToken", GONE, "the group gpu gets credentials for Kubernetes"),
    (TRAIN, f"{SUBMIT}.automountServiceAccountToken", True, "the submitter pod gets credentials for Kubernetes"),
    (SERVE, "spec.serveConfigV2", "", "spec.serveConfigV2: is missing, so that nothing is served"),
    (SERVE, "spec.serveConfigV2", replaced("      replicas: 2", "      replica: 2"), "args.replica: Extra inputs are not permitted"),
    (SERVE, "spec.serveConfigV2", replaced("name: ModelReplica", "name: Model"), "deployments: 'Model' is unknown"),
    (SERVE, "spec.serveConfigV2", replaced("port: 8000", "prot: 8000"), "'prot' was unexpected"),
    (SERVE, "spec.serveConfigV2", replaced("max_replicas: 8", "max_replicas: 1"), "max_replicas 1 is below replicas 2"),
    (SERVE, "spec.serveConfigV2", replaced("EveryNode", "HeadOnly"), "proxy_location: the operator probes a Serve proxy"),
    (SERVE, "spec.serveConfigV2", replaced("host: 0.0.0.0", "host: 127.0.0.1"), "host: Kubernetes' services cannot reach it"),
    (SERVE, "spec.serveConfigV2", replaced("tokens:", "insecure: true #"), "args.insecure: the endpoint accepts every caller"),
    (SERVE, "spec.serveConfigV2", replaced("tokens:", "#"), "args.tokens: there are no tokens, and no DERM_RAY_TOKENS"),
    (SERVE, "spec.serveConfigV2", replaced("cpus: 4", "cpus: [4"), "this is not YAML"),
    (SERVE, "spec.rayClusterConfig.headGroupSpec.template.spec.containers[0].env[4]", GONE, "env: Serve's own proxy nei"),
    ("serve/gpu.yaml", "applications[0].args.modle", "x", "applications[0].args.modle: Extra inputs are not permitted"),
    ("serve/gpu.yaml", "applications[0].args.insecure", True, "args.insecure: the endpoint accepts every caller"),
    (POLICY, "spec.ingress[1].from", GONE, "spec.ingress[1].from: everyone reaches these ports"),
    (POLICY, "spec.ingress[1].from", [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "everyone reaches these ports"),
    (POLICY, "spec.ingress[1].from", [{"namespaceSelector": {}}], "everyone reaches these ports"),
]  # fmt: skip
LAUNCHER: list[tuple[str, str, Any, str]] = [
    (AWS, "max_worker", 3, "max_worker: unknown field 'max_worker'. Did you mean 'max_workers'?"),
    (AWS, "auth.ssh_key", "k", "auth.ssh_key: unknown field 'ssh_key'"),
    (AWS, "available_node_types.gpu.resources.GPU", 0.5, "resources.GPU: 0.5 is not integer"),
    (AWS, "available_node_types.gpu.min_workers", 9, "the document: The specified global `max_workers` is smaller"),
    (AWS, "head_node_type", "heda", "the document: `head_node_type` must be one of `available_node_types`"),
    (AWS, "provider.type", "awss", "the document: "),
    (AWS, "available_node_types", GONE, "the document: `head_node_type` must be one of `available_node_types`"),
    (AWS, "file_mounts.'~/.ray/auth_token'", GONE, "no node gets the cluster's token"),
    (AWS, "head_start_ray_commands[1]", "ray start --head", "head_start_ray_commands[1]: anyone who reaches the node"),
    (BARE, "worker_start_ray_commands[1]", "ray start --address=$RAY_HEAD_IP:6379", "worker_start_ray_commands[1]: anyo"),
    (BARE, "worker_start_ray_commands", GONE, "Ray's default commands start an open cluster"),
    (BARE, "head_start_ray_commands[1]", "RAY_AUTH_MODE=token ray start", "head_start_ray_commands[1]: starts no head"),
    (BARE, "head_start_ray_commands[1]", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=abc ray start --head", "the file contains a secret"),
    (AWS, "setup_commands", GONE, "setup_commands: is missing; machines of a cloud would install Ray's nightly"),
    (AWS, "setup_commands[2]", "pip install -c constraints.txt ray==2.59.0", "installs ray 2.59.0; use ray==2.60.0"),
    (AWS, "setup_commands[2]", "pip install -U 'ray[default]'", "setup_commands[2]: installs ray of any version"),
    (AWS, "setup_commands[2]", "pip install x/derm_ray-0.0.9-py3-none-any.whl", "installs derm-ray 0.0.9; use derm-ray"),
    (AWS, "head_setup_commands[0]", "pip install boto3", "head_setup_commands[0]: installs unpinned versions"),
    (AWS, "available_node_types.gpu.node_config.SecurityGroupIds", GONE, "SecurityGroupIds: is missing; Ray creates a group"),
    (AWS, "docker", {"image": "rayproject/ray:2.59.0-py311", "container_name": "c"}, "the image contains Ray 2.59.0"),
    (BARE, "provider.head_ip", GONE, "the document: Please supply a `head_ip` and list of `worker_ips`"),
    (BARE, "available_node_types", {"a": {"resources": {}, "node_config": {}}}, "the document: The field available_node_types is not supported for on-premise"),
    (BARE, "provider", {"type": "local", "coordinator_address": "h:1"}, ""),
]  # fmt: skip


@pytest.mark.parametrize("crds", ["with"], indirect=True)
@pytest.mark.parametrize(("file", "path", "value", "message"), KUBERAY)
def test_what_kuberays_definitions_refuse(
    file: str, path: str, value: Any, message: str, crds: str, changed: Changed
) -> None:
    assert_refused(changed(file, path, value), message)


@pytest.mark.parametrize(("file", "path", "value", "message"), KUBERNETES)
def test_what_kubernetes_has_no_field_or_kind_for(
    file: str, path: str, value: Any, message: str, changed: Changed
) -> None:
    assert_refused(changed(file, path, value), message)


@pytest.mark.parametrize(("file", "path", "value", "message"), OURS)
def test_what_we_refuse(file: str, path: str, value: Any, message: str, changed: Changed) -> None:
    assert_refused(changed(file, path, value), message)


@pytest.mark.parametrize(("file", "path", "value", "message"), LAUNCHER)
def test_what_the_launcher_refuses(file: str, path: str, value: Any, message: str, changed: Changed) -> None:
    if message:
        assert_refused(changed(file, path, value), message)
    else:
        assert changed(file, path, value) == []


@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        (TRAIN, "spec.entrypoint", "python -m jobs.train --manifest s3://b/m --out s3://b/r --name a"),
        (TRAIN, "spec.entrypoint", "python -m derm_ray verify s3://b/$(date +%F)"),
        (TRAIN, "spec.entrypoint", "derm-ray model verify s3://b/${MODEL}"),
        (TRAIN, f"{GROUP}.idleTimeoutSeconds", 60),
        (TRAIN, f"{GROUP}.priority", 2),
        (TRAIN, f"{GROUP}.minReplicas", GONE),
        (TRAIN, "spec.runtimeEnvYAML", "env_vars: {AWS_REGION: eu-central-1}"),
        (TRAIN, f"{POD}.containers[0].image", "r:5000/a/derm-ray:0.1.0-ray2.60.0@sha256:0"),
        (TRAIN, f"{POD}.containers[0].env[1]", {"name": "A_TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
        (AWS, "setup_commands[2]", "pip install ray==2.60.0 torch==2.14.1"),
    ],
)  # fmt: skip
def test_what_is_sound(file: str, path: str, value: Any, changed: Changed) -> None:
    assert changed(file, path, value) == []


def assert_refused(problems: list[str], message: str) -> None:
    assert any(message in problem for problem in problems), problems
    assert all(problem.count("; ") >= 1 for problem in problems), "each has a fix"
