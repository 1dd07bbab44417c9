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
    elif kind == "PodDisruptionBudget":
        _check_disruption_budget(root.at("spec"))
    elif kind in POD_SPECS:
        check_pod(root.at(*POD_SPECS[kind]))
    elif kind == "ConfigMap":
        for name, value in root.entries("data").items():
            if value.text and names_a_secret(name, value.text):
                value.refuse(f"{name} looks like a secret", "keep it in a Secret, outside these files")


def _check_network_policy(spec: Part) -> None:
    if not spec.entries("podSelector", "matchLabels"):
        spec.at("podSelector").refuse("applies to every pod of the namespace", "select by labels of derm_ray's pods")
    for rule in spec.items("ingress"):
        ports = [port.at("port").value for port in rule.items("ports")]
        anyone = not rule.items("from") or any(_is_anyone(peer) for peer in rule.items("from"))
        if anyone and (not ports or any(port != SERVE_PORT for port in ports)):
            rule.at("from").refuse("everyone reaches these ports", f"list who may; only {SERVE_PORT} may be open")
    types = [part.value for part in spec.items("policyTypes")]
    for direction in ("ingress", "egress"):
        if spec.at(direction).exists and direction.capitalize() not in types:
            spec.at("policyTypes").refuse(f"the {direction} rules have no effect", f"add {direction.capitalize()}")


def _is_anyone(peer: Part) -> bool:
    cidr = peer.at("ipBlock", "cidr").text
    selectors = [peer.at(name) for name in ("podSelector", "namespaceSelector")]
    everywhere = selectors[1].exists and not any(selector.entries("matchLabels") for selector in selectors)
    return cidr.endswith("/0") or everywhere


def _check_disruption_budget(spec: Part) -> None:
    if spec.at("maxUnavailable").exists or spec.at("minAvailable").number is None:
        spec.at("minAvailable").refuse(
            "Kubernetes cannot count the pods of a Ray cluster, so only a whole number works", "set minAvailable: 1"
        )
    if not spec.entries("selector", "matchLabels"):
        spec.at("selector").refuse("applies to every pod of the namespace", "select by labels of derm_ray's pods")
