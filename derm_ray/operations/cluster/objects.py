"""Rules for Kubernetes' own kinds that go with a Ray cluster."""

from derm_ray.credentials import names_a_secret
from derm_ray.operations.cluster.documents import Document, Part
from derm_ray.operations.cluster.monitoring import check_rules

SERVE_PORT = 8000
"""The one port that may be open to everybody: what answers there asks for tokens of its own."""


def check_object(document: Document, kind: str) -> None:
    """Note what we refuse in an object of Kubernetes' own, or of the Prometheus operator."""
    spec = document.root.at("spec")
    if kind == "NetworkPolicy":
        _check_network_policy(spec)
    elif kind == "PodDisruptionBudget":
        _check_disruption_budget(spec)
    elif kind == "PrometheusRule":
        check_rules(spec)
    elif kind == "ConfigMap":
        for name, value in document.root.entries("data").items():
            if value.text and names_a_secret(name, value.text):
                value.refuse(f"{name} looks like a secret", "keep it in a Secret, outside these files")


def _check_network_policy(spec: Part) -> None:
    if not spec.entries("podSelector", "matchLabels"):
        spec.at("podSelector").refuse("holds for every pod of the namespace", "select by labels of our pods")
    for rule in spec.items("ingress"):
        ports = [port.at("port").value for port in rule.items("ports")]
        anyone = not rule.items("from") or any(_is_anyone(peer) for peer in rule.items("from"))
        if anyone and (not ports or set(ports) - {SERVE_PORT}):
            rule.at("from").refuse("everybody reaches these ports", f"name who may; only {SERVE_PORT} may be open")
    for direction in ("ingress", "egress"):
        types = [part.value for part in spec.items("policyTypes")]
        if spec.at(direction).exists and direction.capitalize() not in types:
            spec.at("policyTypes").refuse(f"the rules of {direction} have no effect", f"add {direction.capitalize()}")


def _is_anyone(peer: Part) -> bool:
    cidr = peer.at("ipBlock", "cidr").text
    selectors = [peer.at(name) for name in ("podSelector", "namespaceSelector")]
    everywhere = selectors[1].exists and not any(selector.entries("matchLabels") for selector in selectors)
    return cidr.endswith("/0") or everywhere


def _check_disruption_budget(spec: Part) -> None:
    least, most = spec.at("minAvailable"), spec.at("maxUnavailable")
    if most.exists:
        most.refuse("Kubernetes cannot count the pods of a Ray cluster", "say minAvailable, a whole number")
    elif least.number is None:
        least.refuse("Kubernetes takes whole numbers only for pods of a Ray cluster", "say minAvailable: 1")
    if not spec.entries("selector", "matchLabels"):
        spec.at("selector").refuse("holds for every pod of the namespace", "select by labels of our pods")
