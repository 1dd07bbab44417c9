"""Rules for the kinds of Kubernetes that accompany a Ray cluster."""

from derm_ray.credentials import names_a_secret
from derm_ray.operations.cluster.documents import Document, Part
from derm_ray.operations.cluster.pods import check_pod

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


def check_object(document: Document, kind: str) -> None:
    """Report what is unsafe in an object of Kubernetes."""
    root = document.root
    if kind == "NetworkPolicy":
        _check_network_policy(root.at("spec"))
    elif kind in POD_SPECS:
        check_pod(root.at(*POD_SPECS[kind]))
    elif kind == "ConfigMap":
        for name, value in root.entries("data").items():
            if value.text and names_a_secret(name, value.text):
                value.refuse(f"{name} looks like a secret", "keep it in a Secret, outside these files")


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
