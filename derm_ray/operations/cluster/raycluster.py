"""What KubeRay's operator asks of a Ray cluster beyond its schema, and what we ask.

The operator's rules are those of its ``validation.go`` (2026-08), which it applies after it has accepted the file.
"""

import re

from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.pods import check_environment, check_pod, check_resources, check_security, variables
from derm_ray.operations.cluster.versions import check_image, check_ray_version, parse_version

MIN_AUTH_RAY = (2, 52, 0)
MIN_PRIORITY_RAY = (2, 56, 0)
V2_VARIABLE = "RAY_enable_autoscaler_v2"
_RAY_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_GATED = {
    "networkPolicy": ("RayClusterNetworkPolicy", "use a NetworkPolicy of Kubernetes' own"),
    "tlsOptions": ("RayClusterMTLS", "leave it out, or encrypt by a service mesh"),
    "historyServerOptions": ("RayClusterHistoryServer", "leave it out"),
}
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?", re.ASCII)


def check_cluster(spec: Part) -> None:
    """Note what the operator, or we, refuse in a Ray cluster.

    Args:
        spec: a RayClusterSpec, wherever it stands.
    """
    head = spec.at("headGroupSpec")
    groups = spec.items("workerGroupSpecs")
    check_ray_version(spec.at("rayVersion"))
    _check_authentication(spec)
    _check_gates(spec)
    _check_group(head, spec, "the head")
    for group in groups:
        _check_worker_group(group, spec)
    _check_names(groups)
    _check_autoscaler(spec)
    _check_recovery(spec)


def autoscales(spec: Part) -> bool:
    """Return whether a Ray cluster grows and shrinks by itself."""
    return spec.at("enableInTreeAutoscaling").value is True


def _check_authentication(spec: Part) -> None:
    options = spec.at("authOptions")
    mode, in_kubernetes = options.at("mode"), options.at("enableK8sTokenAuth")
    numbers = parse_version(spec.at("rayVersion").text)
    if mode.value != "token":
        mode.refuse("whoever reaches the cluster runs code on it", "say authOptions: {mode: token}")
    elif numbers < MIN_AUTH_RAY:
        mode.refuse("tokens need a rayVersion of 2.52.0 or later", "give rayVersion")
    if in_kubernetes.value is True:
        if mode.value != "token":
            in_kubernetes.refuse("needs mode: token", "say authOptions: {mode: token}")
        if options.at("secretName").exists:
            options.at("secretName").refuse("excludes enableK8sTokenAuth", "keep one of the two")


def _check_gates(spec: Part) -> None:
    for name, (gate, mend) in _GATED.items():
        if spec.at(name).exists:
            spec.at(name).refuse(f"the operator takes this only with its feature gate {gate}, which is off", mend)


def _check_group(group: Part, spec: Part, name: str) -> None:
    """Check head or workers: their pods, and what is told to ``ray start``."""
    pod = group.at("template", "spec")
    containers = pod.items("containers")
    if not containers:
        pod.at("containers").refuse(f"{name} has no container", "the first one is Ray's")
    for container in containers[:1]:
        check_image(container.at("image"))
    check_pod(pod)
    params = group.at("rayStartParams")
    if group.entries("resources") and any(params.at(key).exists for key in _RAY_RESOURCES):
        group.at("resources").refuse("resources stand here and in rayStartParams", "keep one of the two")
    if params.at("labels").exists:
        params.at("labels").refuse("labels are not passed to ray start", f"give {name} `labels` of its own")
    for key, value in group.entries("labels").items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value.text):
            value.refuse("is no label of Kubernetes", "letters, digits, '-', '_' and '.', at most 63")
    needs_token = name == "the head" and autoscales(spec)
    mounts = pod.at("automountServiceAccountToken")
    if needs_token and mounts.value is False:
        mounts.refuse("the autoscaler beside the head cannot reach Kubernetes", "leave it out here")
    if not needs_token and mounts.value is not False:
        mounts.refuse(f"{name} gets a key to Kubernetes", "say automountServiceAccountToken: false")


def _check_worker_group(group: Part, spec: Part) -> None:
    _check_group(group, spec, f"the group {group.at('groupName').text}")
    least, most = group.at("minReplicas").number or 0, group.at("maxReplicas").number
    for name in ("minReplicas", "maxReplicas", "idleTimeoutSeconds"):
        if (group.at(name).number or 0) < 0:
            group.at(name).refuse("is below 0", "give 0 or more")
    if most is not None and least > most:
        group.at("minReplicas").refuse(f"is {least}, above maxReplicas {most}", "lower it, or raise maxReplicas")
    replicas = group.at("replicas").number
    if replicas is not None and not least <= replicas <= (replicas if most is None else most):
        group.at("replicas").refuse(f"is {replicas}, not within minReplicas and maxReplicas", "lower or raise it")
    if autoscales(spec) and most is None:
        group.at("maxReplicas").refuse(
            "is missing: the autoscaler may start two thousand million nodes", "give a number"
        )
    if group.at("idleTimeoutSeconds").exists and not _is_v2(spec):
        group.at("idleTimeoutSeconds").refuse("needs autoscaler v2", "say autoscalerOptions: {version: v2}")
    if group.at("priority").number:
        if not _is_v2(spec):
            group.at("priority").refuse("needs autoscaler v2", "say autoscalerOptions: {version: v2}")
        if parse_version(spec.at("rayVersion").text) < MIN_PRIORITY_RAY:
            group.at("priority").refuse("needs a rayVersion of 2.56.0 or later", "leave it out")
    if group.at("suspend").value is True and autoscales(spec):
        group.at("suspend").refuse("a group cannot be suspended under the autoscaler", "leave it out")


def _check_names(groups: list[Part]) -> None:
    seen: set[str] = set()
    for group in groups:
        name = group.at("groupName")
        if name.text in seen:
            name.refuse(f"another group is called {name.text}", "give each its own name")
        seen.add(name.text)


def _is_v2(spec: Part) -> bool:
    return spec.at("autoscalerOptions", "version").text == "v2"


def _check_autoscaler(spec: Part) -> None:
    head = spec.at("headGroupSpec", "template", "spec")
    options = spec.at("autoscalerOptions")
    by_variable = next((variables(one).get(V2_VARIABLE) for one in head.items("containers")[:1]), None)
    if by_variable is not None:
        by_variable.refuse(f"{V2_VARIABLE} is the old way", "say autoscalerOptions: {version: v2}")
    if not autoscales(spec):
        if options.exists:
            options.refuse("has no effect without enableInTreeAutoscaling", "say enableInTreeAutoscaling: true")
        return
    if not _is_v2(spec):
        options.at("version").refuse("the old autoscaler is asked for", "say autoscalerOptions: {version: v2}")
    for pod in (head, *(group.at("template", "spec") for group in spec.items("workerGroupSpecs"))):
        policy = pod.at("restartPolicy")
        if _is_v2(spec) and policy.exists and policy.value != "Never":
            policy.refuse("autoscaler v2 replaces pods, they must not restart", "say Never, or leave it out")
    if (options.at("idleTimeoutSeconds").number or 0) < 0:
        options.at("idleTimeoutSeconds").refuse("is below 0", "give 0 or more")
    for variable in options.items("env"):
        if variable.at("name").value == "KUBERAY_GEN_AUTOSCALER_START_CMD":
            variable.refuse("the operator sets this variable itself", "leave it out")
    check_security(options.at("securityContext"), head.at("securityContext"))
    check_resources(options.at("resources"))
    check_environment(options)


def _check_recovery(spec: Part) -> None:
    """Check where the head keeps what must outlive it (Redis)."""
    head = spec.at("headGroupSpec")
    container = next(iter(head.at("template", "spec").items("containers")), head.at("template", "spec", "containers"))
    options = spec.at("gcsFaultToleranceOptions")
    known = variables(container)
    for name in ("REDIS_PASSWORD", "REDIS_USERNAME", "RAY_REDIS_ADDRESS"):
        if name in known:
            known[name].refuse(f"{name} belongs in gcsFaultToleranceOptions", "move it there")
    for name in ("redis-password", "redis-username"):
        if head.at("rayStartParams", name).exists:
            head.at("rayStartParams", name).refuse("belongs in gcsFaultToleranceOptions", "move it there")
    if options.at("backend").value == "rocksdb":
        options.at("backend").refuse(
            "the operator takes this only with its feature gate GCSFaultToleranceEmbeddedStorage, which is off",
            "use redis",
        )
    for name in ("redisUsername", "redisPassword"):
        if options.at(name, "value").exists:
            options.at(name, "value").refuse(
                "a secret stands in the file", "take it from a Secret: valueFrom.secretKeyRef"
            )
