"""What we ask of every pod: no privilege, known resources, no secret in the open, time to leave."""

import re

from derm_ray.credentials import find_credential, names_a_secret
from derm_ray.operations.cluster.documents import Part

DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""How long, in seconds, a node that is told to go lets its work end (ray/_private/ray_constants.py)."""
MODE_VARIABLE = "RAY_AUTH_MODE"
GRACE_S = 30
"""Kubernetes' default ``terminationGracePeriodSeconds``."""
GPU = "nvidia.com/gpu"
_NUMBER = re.compile(r"[0-9]{1,6}")
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def check_pod(spec: Part) -> None:
    """Note what a pod does that ours must not.

    Args:
        spec: of the pod.
    """
    for name in _HOST:
        if spec.at(name).value is True:
            spec.at(name).refuse("shares the node's own namespace", "leave it out")
    for volume in spec.items("volumes"):
        if volume.at("hostPath").exists:
            volume.at("hostPath").refuse("mounts a folder of the node", "use emptyDir or a persistentVolumeClaim")
    containers = [*spec.items("initContainers"), *spec.items("containers")]
    for container in containers:
        check_security(container.at("securityContext"), spec.at("securityContext"))
        check_resources(container.at("resources"))
        check_environment(container)
        _check_drain(container, spec.at("terminationGracePeriodSeconds"))


def check_security(container: Part, pod: Part) -> None:
    """Note where a container may do more than it needs.

    Args:
        container: its ``securityContext``.
        pod: its pod's, which holds where the container's says nothing.
    """

    def holds(name: str) -> Part:
        own = container.at(name)
        return own if own.exists or not pod.at(name).exists else pod.at(name)

    if holds("runAsNonRoot").value is not True:
        holds("runAsNonRoot").refuse("the container may run as root", "say runAsNonRoot: true")
    user = holds("runAsUser")
    if not user.number:
        # Of an image whose user is a name, Kubernetes cannot tell that it is not root, and does not start it.
        user.refuse("there is no number of a user other than root", "say runAsUser: 1000, the image's user")
    if container.at("allowPrivilegeEscalation").value is not False:
        container.at("allowPrivilegeEscalation").refuse(
            "the container may gain privileges", "say allowPrivilegeEscalation: false"
        )
    if container.at("privileged").value is True:
        container.at("privileged").refuse("the container owns the node", "leave it out")
    capabilities = container.at("capabilities")
    if "ALL" not in [part.value for part in capabilities.items("drop")]:
        capabilities.at("drop").refuse("the container keeps capabilities", "say drop: [ALL]")
    for part in capabilities.items("add"):
        part.refuse(f"the container gets the capability {part.value}", "leave it out")
    profile = holds("seccompProfile").at("type")
    if profile.value not in ("RuntimeDefault", "Localhost"):
        profile.refuse("system calls are not filtered", "say seccompProfile: {type: RuntimeDefault}")


def check_resources(resources: Part) -> None:
    """Note what a container does not say about what it takes."""
    for name in ("cpu", "memory"):
        if not resources.at("requests", name).exists:
            resources.at("requests", name).refuse(f"the container requests no {name}", "say how much it needs")
    if not resources.at("limits", "memory").exists:
        resources.at("limits", "memory").refuse("the container's memory has no limit", "say the same as requests")
    asked, limit = resources.at("requests", GPU), resources.at("limits", GPU)
    if (asked.exists or limit.exists) and str(asked.value) != str(limit.value):
        (limit if limit.exists else asked).refuse(
            "GPUs are requested and limited differently", "give both the same number"
        )


def check_environment(container: Part) -> None:
    """Note variables that give a secret away, of which only the name is told, or that switch the token off."""
    for variable in container.items("env"):
        name, value = variable.at("name").text, variable.at("value")
        if value.text and (names_a_secret(name, value.text) or find_credential(value.text)):
            value.refuse(f"{name} looks like a secret", "take it from a Secret: valueFrom.secretKeyRef")
        if name == MODE_VARIABLE and value.value != "token":
            variable.refuse("the operator leaves this variable as it is, and the cluster open", "leave it out")


def variables(container: Part) -> dict[str, Part]:
    """Return the environment of a container, name -> entry."""
    return {variable.at("name").text: variable for variable in container.items("env")}


def gpus(spec: Part) -> int:
    """Return the GPUs of a pod."""
    found = [container.at("resources", "limits", GPU).value for container in spec.items("containers")]
    return sum(int(value) for value in found if _NUMBER.fullmatch(str(value)))


def _check_drain(container: Part, grace: Part) -> None:
    entry = variables(container).get(DRAIN_VARIABLE)
    if entry is None or not entry.at("value").exists:
        return
    if not _NUMBER.fullmatch(entry.at("value").text):
        entry.at("value").refuse("is no whole number of seconds", 'give one in quotes, such as "90"')
        return
    drain = int(entry.at("value").text)
    period = GRACE_S if grace.number is None else grace.number
    if period <= drain:
        grace.refuse(
            f"the pod is killed after {period} s, before its node is drained ({DRAIN_VARIABLE}={drain})",
            f"say terminationGracePeriodSeconds: {drain + 30}",
        )
