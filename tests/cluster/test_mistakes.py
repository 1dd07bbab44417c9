"""Our own files with one mistake each: every one is refused, at its place, and for the right reason."""

from typing import Any

import pytest

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
RULES = "spec.deletionStrategy.deletionRules"


def rule(policy: str, ttl: int = 0, **status: str) -> dict[str, Any]:
    return {"policy": policy, "condition": {**(status or {"jobStatus": "FAILED"}), "ttlSeconds": ttl}}


def replaced(old: str, new: str) -> Any:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


SCHEMA: list[tuple[str, str, Any, str]] = [
    (TRAIN, "spec.entrypiont", "ls", "spec.entrypiont: unknown field 'entrypiont'. Did you mean 'entrypoint'?"),
    (TRAIN, f"{GROUP}.minReplica", 1, "minReplica: unknown field 'minReplica'. Did you mean 'minReplicas'?"),
    (TRAIN, f"{WORKER}.containers[0].resource", {}, "unknown field 'resource'. Did you mean 'resources'?"),
    (TRAIN, "metadata.lables", {}, "metadata.lables: unknown field 'lables'. Did you mean 'labels'?"),
    (TRAIN, f"{GROUP}.groupName", GONE, "workerGroupSpecs[0].groupName: is missing"),
    (TRAIN, f"{CLUSTER}.headGroupSpec", GONE, "spec.rayClusterSpec.headGroupSpec: is missing"),
    (TRAIN, "metadata.name", GONE, "metadata.name: is missing"),
    (TRAIN, "metadata.name", "Train", "metadata.name: 'Train' does not match"),
    (TRAIN, f"{HEAD}.rayStartParams.num-cpus", 0, "num-cpus: 0 is not string; write it in quotes"),
    (TRAIN, f"{GROUP}.maxReplicas", "four", "maxReplicas: 'four' is not integer"),
    (TRAIN, f"{POD}.containers[0].resources.requests.cpu", "2 cores", "requests.cpu: '2 cores' does not match"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.version", "v3", "version: 'v3' is none of its values; choose one of: v1, v2"),
    (TRAIN, f"{CLUSTER}.authOptions.mode", "basic", "authOptions.mode: 'basic' is none of its values"),
    (NIGHTLY, "spec.concurrencyPolicy", "Forbid", "spec.concurrencyPolicy: unknown field 'concurrencyPolicy'"),
    (NIGHTLY, "spec.schedule", GONE, "spec.schedule: is missing"),
    (SERVE, "spec.rayClusterSpec", {}, "spec.rayClusterSpec: unknown field 'rayClusterSpec'. Did you mean 'rayCl"),
    (SERVE, "spec.serveConfigV2", {}, "spec.serveConfigV2: {} is not string"),
    (SHARED, "apiVersion", "ray.io/v1alpha1", "apiVersion: 'ray.io/v1alpha1' has no RayCluster; say ray.io/v1"),
    (SHARED, "kind", "RayClusters", "kind: unknown kind 'RayClusters'. Did you mean 'RayCluster'?; known: "),
    (SHARED, "kind", "Secret", "kind: a secret does not belong in a file; make it by kubectl create secret"),
    (BUDGET, "spec.minAvailabel", 1, "spec.minAvailabel: unknown field 'minAvailabel'. Did you mean 'minAvailable'?"),
    (ACCOUNT, "automountServiceAccountTokn", True, "unknown field 'automountServiceAccountTokn'. Did you mean"),
    (POLICY, "spec.ingress[0].ports", [], "spec.ingress[0].ports: [] should be non-empty"),
]
OPERATOR: list[tuple[str, str, Any, str]] = [
    (TRAIN, "metadata.name", "t" * 48, "metadata.name: has 48 characters, a RayJob may have 47"),
    (SHARED, "metadata.name", "t" * 54, "metadata.name: has 54 characters, a RayCluster may have 53"),
    (SERVE, "metadata.name", "t" * 48, "metadata.name: has 48 characters, a RayService may have 47"),
    (NIGHTLY, "metadata.name", "t" * 37, "metadata.name: has 37 characters, a RayCronJob may have 36"),
    (TRAIN, "metadata.name", "1st", "metadata.name: must begin with a letter"),
    (TRAIN, CLUSTER, GONE, "spec.rayClusterSpec: neither this nor clusterSelector is given"),
    (TRAIN, f"{POD}.containers", [], "spec.containers: the head has no container"),
    (TRAIN, f"{WORKER}.containers", [], "spec.containers: the group gpu has no container"),
    (TRAIN, f"{GROUP}.minReplicas", 5, "minReplicas: is 5, above maxReplicas 4"),
    (TRAIN, f"{GROUP}.minReplicas", -1, "minReplicas: is below 0"),
    (TRAIN, f"{GROUP}.replicas", 9, "replicas: is 9, not within minReplicas and maxReplicas"),
    (TRAIN, f"{GROUP}.maxReplicas", GONE, "maxReplicas: is missing: the autoscaler may start"),
    (TRAIN, f"{CLUSTER}.workerGroupSpecs[1].groupName", "gpu", "groupName: another group is called gpu"),
    (TRAIN, f"{GROUP}.resources", {"CPU": "8"}, "resources: resources stand here and in rayStartParams"),
    (TRAIN, f"{HEAD}.rayStartParams.labels", "a=b", "rayStartParams.labels: labels are not passed to ray start"),
    (TRAIN, f"{GROUP}.labels", {"a b": "c"}, "labels['a b']: is no label of Kubernetes"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.version", "v1", "version: the old autoscaler is asked for"),
    (TRAIN, f"{CLUSTER}.enableInTreeAutoscaling", GONE, "autoscalerOptions: has no effect without enableInTree"),
    (TRAIN, f"{POD}.restartPolicy", "Always", "restartPolicy: autoscaler v2 replaces pods, they must not restart"),
    (TRAIN, f"{WORKER}.restartPolicy", "OnFailure", "restartPolicy: autoscaler v2 replaces pods, they must not"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.idleTimeoutSeconds", -1, "autoscalerOptions.idleTimeoutSeconds: is below 0"),
    (TRAIN, f"{GROUP}.suspend", True, "suspend: a group cannot be suspended under the autoscaler"),
    (TRAIN, f"{POD}.containers[0].env[1]", {"name": "RAY_enable_autoscaler_v2", "value": "1"}, "is the old way"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.env", [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}], "env[0]: the operator sets this variable itself"),
    (TRAIN, f"{CLUSTER}.rayVersion", GONE, "authOptions.mode: tokens need a rayVersion of 2.52.0 or later"),
    (TRAIN, f"{CLUSTER}.authOptions.enableK8sTokenAuth", True, "enableK8sTokenAuth: no RayJob can use this"),
    (SERVE, "spec.rayClusterConfig.authOptions.enableK8sTokenAuth", True, "enableK8sTokenAuth: no RayService can use"),
    (SHARED, "spec.authOptions", {"mode": "token", "enableK8sTokenAuth": True, "secretName": "s"}, "secretName: excludes enableK8sTokenAuth"),
    (SHARED, "spec.authOptions", {"enableK8sTokenAuth": True}, "enableK8sTokenAuth: needs mode: token"),
    (SHARED, "spec.networkPolicy", {}, "spec.networkPolicy: "),
    (TRAIN, f"{CLUSTER}.upgradeStrategy", {"type": "Recreate"}, "upgradeStrategy: belongs to a RayCluster of its own"),
    (TRAIN, f"{CLUSTER}.gcsFaultToleranceOptions", {"backend": "rocksdb"}, "backend: the operator takes this only with"),
    (TRAIN, f"{HEAD}.rayStartParams.redis-password", "x", "redis-password: belongs in gcsFaultToleranceOptions"),
    (TRAIN, f"{POD}.containers[0].env[1]", {"name": "RAY_REDIS_ADDRESS", "value": "r:1"}, "belongs in gcsFaultTol"),
    (TRAIN, "spec.shutdownAfterJobFinishes", GONE, "ttlSecondsAfterFinished: has no effect without shutdownAfter"),
    (TRAIN, "spec.ttlSecondsAfterFinished", -1, "ttlSecondsAfterFinished: is below 0"),
    (TRAIN, "spec.backoffLimit", -1, "backoffLimit: is below 0"),
    (TRAIN, "spec.activeDeadlineSeconds", 0, "activeDeadlineSeconds: is not above 0"),
    (TRAIN, "spec.clusterSelector", {"ray.io/cluster": "c"}, "backoffLimit: a job on a selected cluster is not tried"),
    (TRAIN, "spec.clusterSelector", {"cluster": "c"}, "spec.clusterSelector['ray.io/cluster']: is missing"),
    (TRAIN, "spec.submissionMode", "K8sJob", "submissionMode: 'K8sJob' is no way to submit"),
    (TRAIN, "spec.submissionMode", "SidecarMode", "submitterPodTemplate: SidecarMode has no pod of its own"),
    (TRAIN, "spec.submissionMode", "InteractiveMode", "backoffLimit: InteractiveMode is not tried again"),
    (TRAIN, f"{SUBMIT}.restartPolicy", GONE, "restartPolicy: the pod of a Kubernetes Job must not always restart"),
    (TRAIN, RULES, [rule("DeleteCluster")], "deletionRules: excludes shutdownAfterJobFinishes"),
    (TRAIN, RULES, [rule("DeleteWorkers")], "policy: DeleteWorkers does not go with the autoscaler"),
    (TRAIN, RULES, [rule("DeleteSelf"), rule("DeleteSelf")], "deletionRules[1]: another rule says DeleteSelf for jobStat"),
    (TRAIN, RULES, [rule("DeleteSelf", 5), rule("DeleteCluster", 9)], "workers, cluster and job go in another order"),
    (TRAIN, RULES, [rule("DeleteSelf", jobStatus="FAILED", jobDeploymentStatus="Failed")], "condition: names 2 statuses"),
    (TRAIN, "spec.deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}, "has neither rules nor both onSuccess"),
    (TRAIN, "spec.deletionStrategy", {"onSuccess": {"policy": "DeleteNone"}, "onFailure": {"policy": "DeleteSelf"}}, "onSuccess.policy: contradicts shutdownAfterJobFinishes"),
    (NIGHTLY, "spec.schedule", "TZ=UTC 0 2 * * *", "spec.schedule: names a time zone; give it as timeZone"),
    (NIGHTLY, "spec.schedule", "0 2 * *", "spec.schedule: has 4 fields, not five"),
    (NIGHTLY, "spec.schedule", "0 24 * * *", "spec.schedule: '24' is no hour"),
    (NIGHTLY, "spec.schedule", "0 2 * * mon-fry", "spec.schedule: 'mon-fry' is no day of the week"),
    (NIGHTLY, "spec.timeZone", "Europe/Bonn", "spec.timeZone: 'Europe/Bonn' is no time zone"),
    (NIGHTLY, "spec.jobTemplate.rayClusterSpec.rayVersion", "2.59.0", "jobTemplate.rayClusterSpec.rayVersion: is 2.59.0"),
    (SERVE, "spec.upgradeStrategy", {"type": "Rolling"}, "type: 'Rolling' is no way to upgrade"),
    (SERVE, "spec.upgradeStrategy", {"type": "NewClusterWithIncrementalUpgrade"}, "clusterUpgradeOptions: is missing"),
    (SERVE, "spec.upgradeStrategy", {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": {"gatewayClassName": "g", "intervalSeconds": 0, "stepSizePercent": 5}}, "intervalSeconds: is not above 0"),
    (SERVE, "spec.upgradeStrategy", {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": {"gatewayClassName": "g", "intervalSeconds": 9, "stepSizePercent": 60, "maxSurgePercent": 50}}, "stepSizePercent: is not within 0 and maxSurgePercent 50"),
    (SERVE, "metadata.annotations", {"ray.io/initializing-timeout": "soon"}, "timeout']: is no duration"),
    (SERVE, "spec.rayClusterConfig.headGroupSpec.headService", {"metadata": {"name": "s"}}, "metadata.name: the operator names"),
]  # fmt: skip
OURS: list[tuple[str, str, Any, str]] = [
    (TRAIN, f"{CLUSTER}.rayVersion", "2.59.0", "rayVersion: is 2.59.0, not the Ray derm_ray is installed with; say rayV"),
    (TRAIN, f"{POD}.containers[0].image", "r/derm-ray:0.1.0-ray2.59.0-cpu", "image: the image holds Ray 2.59.0"),
    (TRAIN, f"{POD}.containers[0].image", "r/derm-ray:0.0.9-ray2.60.0", "image: the image holds derm_ray 0.0.9"),
    (TRAIN, f"{WORKER}.containers[0].image", "r:5000/derm-ray", "image: the image r:5000/derm-ray has no tag"),
    (TRAIN, f"{WORKER}.containers[0].image", "r/derm-ray:latest", "the tag latest does not say which Ray and derm_ray"),
    (TRAIN, f"{SUBMIT}.containers[0].image", "rayproject/ray:2.52.0", "image: the image holds Ray 2.52.0"),
    (TRAIN, f"{CLUSTER}.authOptions", GONE, "authOptions.mode: whoever reaches the cluster runs code on it"),
    (TRAIN, f"{CLUSTER}.authOptions.mode", "disabled", "authOptions.mode: whoever reaches the cluster runs code on it"),
    (TRAIN, "spec.entrypoint", "derm-ray train --manifset x", "spec.entrypoint: derm-ray train: No such option: --man"),
    (TRAIN, "spec.entrypoint", "derm-ray trian", "spec.entrypoint: unknown command 'trian'; Did you mean 'train'?"),
    (TRAIN, "spec.entrypoint", "python -m jobs.trian --gpu", "spec.entrypoint: unknown job 'trian'; Did you mean"),
    (TRAIN, "spec.entrypoint", "python train.py", "spec.entrypoint: 'python' does not start derm_ray"),
    (TRAIN, "spec.entrypoint", "", "spec.entrypoint: there is no command"),
    (TRAIN, "spec.entrypoint", "derm-ray train --help", "spec.entrypoint: --help runs nothing; remove it"),
    (TRAIN, "spec.entrypoint", "derm-ray verify s3://a:b@c/d", "spec.entrypoint: argument 2: holds a password in a URI"),
    (TRAIN, "spec.entrypoint", "derm-ray serve --model s3://b/m", "spec.entrypoint: serve is no job; a RayService"),
    (TRAIN, "spec.entrypoint", "derm-ray verify s3://b/o; ls", "spec.entrypoint: is more than one command to a shell"),
    (TRAIN, "spec.entrypoint", "derm-ray verify 's3://b/o", "spec.entrypoint: cannot be split into words"),
    (TRAIN, "spec.entrypoint", replaced("s3://BUCKET/runs", "runs"), "spec.entrypoint: --out runs: relative to this"),
    (TRAIN, "spec.entrypoint", replaced("--max-workers 4", "--max-workers 5"), "asks for 5 GPUs, the cluster grows to 4"),
    (SCORE, f"{GROUP}.maxReplicas", 3, "spec.entrypoint: asks for 4 GPUs, the cluster grows to 3"),
    (TRAIN, "spec.shutdownAfterJobFinishes", False, "the cluster stays, and is paid for, when the job has ended"),
    (TRAIN, "spec.submitterPodTemplate", GONE, "submitterPodTemplate: the operator's own pod that submits may run as"),
    (TRAIN, "spec.runtimeEnvYAML", "env_vars: {A: b", "spec.runtimeEnvYAML > the document: this is not YAML"),
    (TRAIN, "spec.runtimeEnvYAML", "env_var: {}", "runtimeEnvYAML > env_var: unknown field 'env_var'. Did you mean 'env_v"),
    (TRAIN, "spec.runtimeEnvYAML", "env_vars: {API_TOKEN: abc}", "env_vars.API_TOKEN: API_TOKEN looks like a secret"),
    (TRAIN, "spec.runtimeEnvYAML", "working_dir: .", "working_dir: is a folder of whoever applies the file"),
    (TRAIN, "spec.runtimeEnvYAML", "env_vars: {A: 1}", "runtimeEnvYAML > the document: "),
    (TRAIN, f"{POD}.securityContext.runAsNonRoot", False, "securityContext.runAsNonRoot: the container may run as root"),
    (TRAIN, f"{POD}.securityContext.runAsUser", 0, "runAsUser: there is no number of a user other than root"),
    (TRAIN, f"{WORKER}.securityContext", GONE, "runAsNonRoot: the container may run as root"),
    (TRAIN, f"{WORKER}.securityContext.seccompProfile", GONE, "seccompProfile.type: system calls are not filtered"),
    (TRAIN, f"{WORKER}.containers[0].securityContext", GONE, "allowPrivilegeEscalation: the container may gain priv"),
    (TRAIN, f"{WORKER}.containers[0].securityContext.privileged", True, "privileged: the container owns the node"),
    (TRAIN, f"{WORKER}.containers[0].securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}, "the container gets the capability SYS_PTRACE"),
    (TRAIN, f"{WORKER}.containers[0].securityContext.capabilities", {}, "drop: the container keeps capabilities"),
    (TRAIN, f"{SUBMIT}.containers[0].securityContext", GONE, "allowPrivilegeEscalation: the container may gain privil"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.securityContext", GONE, "autoscalerOptions.securityContext.allowPrivilegeEsc"),
    (TRAIN, f"{CLUSTER}.autoscalerOptions.resources", GONE, "resources.requests.cpu: the container requests no cpu"),
    (TRAIN, f"{WORKER}.hostNetwork", True, "hostNetwork: shares the node's own namespace"),
    (TRAIN, f"{WORKER}.volumes", [{"name": "v", "hostPath": {"path": "/"}}], "hostPath: mounts a folder of the node"),
    (TRAIN, f"{WORKER}.containers[0].resources.requests.memory", GONE, "memory: the container requests no memory"),
    (TRAIN, f"{WORKER}.containers[0].resources.limits.memory", GONE, "limits.memory: the container's memory has no limit"),
    (TRAIN, f"{WORKER}.containers[0].resources.requests.'nvidia.com/gpu'", "2", "GPUs are requested and limited diff"),
    (TRAIN, f"{POD}.containers[0].env[1]", {"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}, "env[1].value: AWS_SECRET_ACCESS_KEY looks like a secret"),
    (TRAIN, f"{WORKER}.containers[0].env[1]", {"name": "RAY_AUTH_MODE", "value": "disabled"}, "and the cluster open"),
    (TRAIN, f"{POD}.automountServiceAccountToken", False, "the autoscaler beside the head cannot reach Kubernetes"),
    (TRAIN, f"{WORKER}.automountServiceAccountToken", GONE, "the group gpu gets a key to Kubernetes"),
    (TRAIN, f"{SUBMIT}.automountServiceAccountToken", True, "the pod that submits gets a key to Kubernetes"),
    (TRAIN, f"{WORKER}.terminationGracePeriodSeconds", 90, "the pod is killed after 90 s, before its node is drained"),
    (TRAIN, f"{WORKER}.terminationGracePeriodSeconds", GONE, "the pod is killed after 30 s, before its node is drained"),
    (TRAIN, f"{WORKER}.containers[0].env[0].value", "90s", "env[0].value: is no whole number of seconds"),
    (SERVE, "spec.serveConfigV2", "", "spec.serveConfigV2: is missing, so that nothing is served"),
    (SERVE, "spec.serveConfigV2", replaced("      replicas: 2", "      replica: 2"), "args.replica: Extra inputs are not permitted"),
    (SERVE, "spec.serveConfigV2", replaced("name: ModelReplica", "name: Model"), "deployments: 'Model' is unknown"),
    (SERVE, "spec.serveConfigV2", replaced("port: 8000", "prot: 8000"), "'prot' was unexpected"),
    (SERVE, "spec.serveConfigV2", replaced("max_replicas: 8", "max_replicas: 1"), "max_replicas 1 is below replicas 2"),
    (SERVE, "spec.serveConfigV2", replaced("EveryNode", "HeadOnly"), "proxy_location: the operator asks every worker's"),
    (SERVE, "spec.serveConfigV2", replaced("host: 0.0.0.0", "host: 127.0.0.1"), "host: Kubernetes' services cannot reach it"),
    (SERVE, "spec.serveConfigV2", replaced("tokens:", "insecure: true #"), "args.insecure: everybody is let in"),
    (SERVE, "spec.serveConfigV2", replaced("tokens:", "#"), "args.tokens: there are no tokens, and no DERM_RAY_TOKENS"),
    (SERVE, "spec.serveConfigV2", replaced("cpus: 4", "cpus: [4"), "this is not YAML"),
    (SERVE, "spec.rayClusterConfig.workerGroupSpecs[0].maxReplicas", 1, "gpu: the cluster grows to 1 GPUs"),
    (SERVE, "spec.rayClusterConfig.headGroupSpec.template.spec.containers[0].env[4]", GONE, "env: Serve's proxy would nei"),
    ("serve/gpu.yaml", "applications[0].args.modle", "x", "applications[0].args.modle: Extra inputs are not permitted"),
    ("serve/gpu.yaml", "applications[0].args.insecure", True, "args.insecure: everybody is let in"),
    (POLICY, "spec.podSelector", {}, "spec.podSelector: holds for every pod of the namespace"),
    (POLICY, "spec.policyTypes", ["Ingress"], "spec.policyTypes: the rules of egress have no effect; add Egress"),
    (POLICY, "spec.ingress[1].from", GONE, "spec.ingress[1].from: everybody reaches these ports"),
    (POLICY, "spec.ingress[1].from", [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "everybody reaches these ports"),
    (POLICY, "spec.ingress[1].from", [{"namespaceSelector": {}}], "everybody reaches these ports"),
    (BUDGET, "spec", {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}, "cannot count the pods of a Ray"),
    (BUDGET, "spec.minAvailable", "50%", "spec.minAvailable: Kubernetes takes whole numbers only"),
    (BUDGET, "spec.selector", {}, "spec.selector: holds for every pod of the namespace"),
]  # fmt: skip
LAUNCHER: list[tuple[str, str, Any, str]] = [
    (AWS, "max_worker", 3, "max_worker: unknown field 'max_worker'. Did you mean 'max_workers'?"),
    (AWS, "auth.ssh_key", "k", "auth.ssh_key: unknown field 'ssh_key'"),
    (AWS, "available_node_types.gpu.resources.GPU", 0.5, "resources.GPU: 0.5 is not integer"),
    (AWS, "available_node_types.gpu.min_workers", 9, "the document: The specified global `max_workers` is smaller"),
    (AWS, "head_node_type", "heda", "the document: `head_node_type` must be one of `available_node_types`"),
    (AWS, "provider.type", "awss", "the document: "),
    (AWS, "available_node_types", GONE, "available_node_types: is missing; Ray's own default machines would hold"),
    (AWS, "file_mounts.'~/.ray/auth_token'", GONE, "the cluster's token reaches no node"),
    (AWS, "head_start_ray_commands[1]", "ray start --head", "head_start_ray_commands[1]: whoever reaches the node runs"),
    (BARE, "worker_start_ray_commands[1]", "ray start --address=$RAY_HEAD_IP:6379", "worker_start_ray_commands[1]: whoe"),
    (BARE, "worker_start_ray_commands", GONE, "Ray's own commands start an open cluster"),
    (BARE, "head_start_ray_commands[1]", "RAY_AUTH_MODE=token ray start", "head_start_ray_commands[1]: starts no head"),
    (BARE, "head_start_ray_commands[1]", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=abc ray start --head", "a secret stands in"),
    (AWS, "setup_commands", GONE, "setup_commands: is missing; a cloud's machines would get Ray's nightly"),
    (AWS, "setup_commands[2]", "pip install -c constraints.txt ray==2.59.0", "installs ray 2.59.0; say ray==2.60.0"),
    (AWS, "setup_commands[2]", "pip install -U 'ray[default]'", "setup_commands[2]: installs ray of any version"),
    (AWS, "setup_commands[2]", "pip install x/derm_ray-0.0.9-py3-none-any.whl", "installs derm-ray 0.0.9; say derm-ray"),
    (AWS, "head_setup_commands[0]", "pip install boto3", "head_setup_commands[0]: installs versions of the day"),
    (AWS, "available_node_types.gpu.node_config.SecurityGroupIds", GONE, "SecurityGroupIds: is missing; Ray makes a group"),
    (AWS, "docker", {"image": "rayproject/ray:2.59.0-py311", "container_name": "c"}, "the image holds Ray 2.59.0"),
    (BARE, "provider.head_ip", GONE, "provider.head_ip: is missing; give the machines' addresses"),
    (BARE, "provider.worker_ips[1]", "10.0.0.2", "provider.worker_ips[1]: the machine stands twice"),
    (BARE, "available_node_types", {"a": {"resources": {}, "node_config": {}}}, "bare machines have no types"),
    (BARE, "provider", {"type": "local", "coordinator_address": "h:1"}, ""),
]  # fmt: skip


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize(("file", "path", "value", "message"), SCHEMA)
def test_what_the_schema_refuses(file: str, path: str, value: Any, message: str, changed: Changed) -> None:
    assert_refused(changed(file, path, value), message)


@pytest.mark.parametrize(("file", "path", "value", "message"), OPERATOR)
def test_what_the_operator_refuses(file: str, path: str, value: Any, message: str, changed: Changed) -> None:
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


@pytest.mark.usefixtures("definitions")
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
        (NIGHTLY, "spec.schedule", "*/15 1-5,22 1 jan-mar mon,5"),
        (NIGHTLY, "spec.schedule", "@daily"),
        (SERVE, "metadata.annotations", {"ray.io/initializing-timeout": "1h30m"}),
        (AWS, "setup_commands[2]", "pip install ray==2.60.0 torch==2.14.1"),
    ],
)  # fmt: skip
def test_what_is_sound(file: str, path: str, value: Any, changed: Changed) -> None:
    assert changed(file, path, value) == []


def assert_refused(problems: list[str], message: str) -> None:
    assert any(message in problem for problem in problems), problems
    assert all(problem.count("; ") >= 1 for problem in problems), "each has a mend"
