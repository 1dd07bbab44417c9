"""What derm_ray requires of a RayService, and of the Serve config file inside."""

from derm_ray.operations.cluster.documents import Document, Part
from derm_ray.operations.cluster.kuberay import check_cluster
from derm_ray.operations.cluster.kubernetes import variables

PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY = "derm_ray.serving.proxy.harden"
TOKENS_VARIABLE = "DERM_RAY_TOKENS"


def check_service(spec: Part) -> None:
    """Report what is unsafe or wrong in a RayService.

    Args:
        spec: of the RayService.
    """
    cluster = spec.at("rayClusterConfig")
    check_cluster(cluster)
    _check_proxies(cluster)
    config = spec.at("serveConfigV2")
    if not config.text.strip():
        config.refuse("is missing, so that nothing is served", "give a Serve config file as text")
    for inside in config.documents():
        check_serve_config(inside, cluster)


def check_serve_config(document: Document, cluster: Part | None = None) -> None:
    """Report what Serve or derm_ray refuses in a Serve config file.

    Args:
        document: the file, or the text in a RayService.
        cluster: the RayClusterSpec it is for; ``None`` where that is not known.
    """
    from derm_ray.serving.config import IMPORT_PATH, check_config

    for path, what in check_config(document.value):
        document.refuse(path, what, "see Serve's config file reference and ServeArguments")
    root = document.root
    for app in root.items("applications"):
        if app.at("import_path").value == IMPORT_PATH:
            _check_arguments(app.at("args"), cluster)
    if cluster is None:
        return
    host = root.at("http_options", "host")
    if host.exists and host.value != "0.0.0.0":  # noqa: S104
        host.refuse("Kubernetes' services cannot reach it", "set host: 0.0.0.0")
    if cluster.items("workerGroupSpecs") and root.at("proxy_location").value != "EveryNode":
        root.at("proxy_location").refuse(
            "the operator probes a Serve proxy on every worker", "set proxy_location: EveryNode"
        )


def _check_arguments(args: Part, cluster: Part | None) -> None:
    if args.at("insecure").value is True:
        args.at("insecure").refuse("the endpoint accepts every caller", "remove it, and give tokens")
    elif not args.at("tokens").exists and not _has_tokens(cluster):
        args.at("tokens").refuse(
            f"there are no tokens, and no {TOKENS_VARIABLE} from a Secret", "give the URI of a token file"
        )


def _has_tokens(cluster: Part | None) -> bool:
    if cluster is None:
        return True
    head = cluster.at("headGroupSpec", "template", "spec").items("containers")[:1]
    return any(TOKENS_VARIABLE in variables(container) for container in head)


def _check_proxies(cluster: Part) -> None:
    """Check that Serve's proxies are derm_ray's: they start with the first application."""
    for group in (cluster.at("headGroupSpec"), *cluster.items("workerGroupSpecs")):
        for container in group.at("template", "spec").items("containers")[:1]:
            entry = variables(container).get(PROXY_VARIABLE)
            if entry is None or entry.at("value").value != PROXY:
                (entry or container.at("env")).refuse(
                    "Serve's own proxy neither limits request heads nor hides its control routes from callers",
                    f"set {PROXY_VARIABLE} to {PROXY}",
                )
