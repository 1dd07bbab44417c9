"""What derm_ray requires of a Ray cluster: a token, its own versions, no privilege, no secret in the file."""

from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.pods import check_environment, check_pod, check_security
from derm_ray.operations.cluster.versions import check_image, check_ray_version


def check_cluster(spec: Part) -> None:
    """Report what is unsafe or wrong in a Ray cluster.

    Args:
        spec: a RayClusterSpec, wherever it stands.
    """
    check_ray_version(spec.at("rayVersion"))
    mode = spec.at("authOptions", "mode")
    if mode.value != "token":
        mode.refuse("anyone who reaches the cluster can run code on it", "set authOptions: {mode: token}")
    for name in ("redisUsername", "redisPassword"):
        value = spec.at("gcsFaultToleranceOptions", name, "value")
        if value.exists:
            value.refuse("the file contains a secret", "take it from a Secret: valueFrom.secretKeyRef")
    autoscales = spec.at("enableInTreeAutoscaling").value is True
    head = spec.at("headGroupSpec")
    _check_group(head, "the head", needs_kubernetes=autoscales)
    if autoscales:
        options = spec.at("autoscalerOptions")
        check_security(options.at("securityContext"), head.at("template", "spec", "securityContext"))
        check_environment(options)
    for group in spec.items("workerGroupSpecs"):
        _check_group(group, f"the group {group.at('groupName').text}", needs_kubernetes=False)


def _check_group(group: Part, name: str, *, needs_kubernetes: bool) -> None:
    pod = group.at("template", "spec")
    for container in pod.items("containers")[:1]:  # Ray's own
        check_image(container.at("image"))
    check_pod(pod)
    account = pod.at("automountServiceAccountToken")
    if needs_kubernetes and account.value is False:
        account.refuse("the autoscaler beside the head cannot reach Kubernetes", "remove it here")
    if not needs_kubernetes and account.value is not False:
        account.refuse(f"{name} gets credentials for Kubernetes", "set automountServiceAccountToken: false")
