"""What derm_ray requires of Kubernetes' own objects: no privilege, no secret in the file, no port open to all."""

from derm_ray.credentials import find_credential, names_a_secret
from derm_ray.operations.cluster.documents import Document, Part

MODE_VARIABLE = "RAY_AUTH_MODE"
SERVE_PORT = 8000
"""The only port that may be open to everyone: the endpoint behind it requires tokens of its own."""
POD_SPECS = {
    "Pod": ("spec",),
    "Job": ("spec", "template", "spec"),
    "Deployment": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
"""Kind -> where its pod is described."""
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def check_object(document: Document, kind: str) -> None:
    """Report what is unsafe in an object of Kubernetes."""
    root = document.root
    if kind == "NetworkPolicy":
        _check_network_policy(root.at("spec"))
    elif kind in POD_SPECS:
        check_pod(root.at(*POD_SPECS[kind]))
    elif kind == "ConfigMap":
        for name, value in root.entries("data").items():
            refuse_secret(name, value, "keep it in a Secret, outside these files")


def _check_network_policy(spec: Part) -> None:
    for rule in spec.items("ingress"):
        ports = [port.at("port").value for port in rule.items("ports")]
        anyone = not rule.items("from") or any(_is_anyone(peer) for peer in rule.items("from"))
        if anyone and (not ports or any(port != SERVE_PORT for port in ports)):
            rule.at("from").refuse("everyone reaches these ports", f"list who may; only {SERVE_PORT} may be open")


def _is_anyone(peer: Part) -> bool:
    cidr = peer.at("ipBlock", "cidr").text
    selectors = [peer.at(name) for name in ("podSelector", "namespaceSelector")]
    everywhere = selectors[1].exists and not any(selector.entries("matchLabels") for selector in selectors)
    return cidr.endswith("/0") or everywhere


def check_pod(spec: Part) -> None:
    """Report privileges and secrets of a pod.

    Args:
        spec: of the pod.
    """
    for name in _HOST:
        if spec.at(name).value is True:
            spec.at(name).refuse("shares a namespace of the node", "remove it")
    for volume in spec.items("volumes"):
        if volume.at("hostPath").exists:
            volume.at("hostPath").refuse("mounts a folder of the node", "use emptyDir or a persistentVolumeClaim")
    containers = [*spec.items("initContainers"), *spec.items("containers")]
    for container in containers:
        check_security(container.at("securityContext"), spec.at("securityContext"))
        check_environment(container)


def check_security(container: Part, pod: Part) -> None:
    """Report privileges that a container does not need.

    Args:
        container: its ``securityContext``.
        pod: its pod's, which applies where the container's sets nothing.
    """

    def effective(name: str) -> Part:
        own = container.at(name)
        return own if own.exists or not pod.at(name).exists else pod.at(name)

    if effective("runAsNonRoot").value is not True:
        effective("runAsNonRoot").refuse("the container may run as root", "set runAsNonRoot: true")
    user = effective("runAsUser")
    if not user.number:
        # Kubernetes does not start an image whose user is a name: it cannot know that this is not root.
        user.refuse("names no user id other than root's", "set runAsUser: 1000, the image's user")
    if container.at("allowPrivilegeEscalation").value is not False:
        container.at("allowPrivilegeEscalation").refuse(
            "the container may gain privileges", "set allowPrivilegeEscalation: false"
        )
    if container.at("privileged").value is True:
        container.at("privileged").refuse("the container controls the node", "remove it")
    capabilities = container.at("capabilities")
    if "ALL" not in [part.value for part in capabilities.items("drop")]:
        capabilities.at("drop").refuse("the container keeps capabilities", "set drop: [ALL]")
    for part in capabilities.items("add"):
        part.refuse(f"the container gets the capability {part.value}", "remove it")
    profile = effective("seccompProfile").at("type")
    if profile.value not in ("RuntimeDefault", "Localhost"):
        profile.refuse("system calls are not filtered", "set seccompProfile: {type: RuntimeDefault}")


def check_environment(container: Part) -> None:
    """Report variables that contain a secret, by name only, or that switch Ray's token off."""
    for variable in container.items("env"):
        name, value = variable.at("name").text, variable.at("value")
        refuse_secret(name, value, "take it from a Secret: valueFrom.secretKeyRef")
        if name == MODE_VARIABLE and value.value != "token":
            variable.refuse("overrides the operator's token mode, and leaves the cluster open", "remove it")


def refuse_secret(name: str, value: Part, fix: str) -> None:
    """Report a variable or entry that holds a secret, by its name or its value."""
    if value.text and (names_a_secret(name, value.text) or find_credential(value.text)):
        value.refuse(f"{name} looks like a secret", fix)


def variables(container: Part) -> dict[str, Part]:
    """Return the environment of a container, name -> entry."""
    return {variable.at("name").text: variable for variable in container.items("env")}
