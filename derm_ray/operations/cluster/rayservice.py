"""What KubeRay's operator asks of a service, and what we ask of it and of the Serve config file inside."""

import re

from derm_ray.operations.cluster.commands import most_gpus
from derm_ray.operations.cluster.documents import Document, Part
from derm_ray.operations.cluster.pods import variables
from derm_ray.operations.cluster.raycluster import autoscales, check_cluster

PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY = "derm_ray.serving.proxy.harden"
TOKENS_VARIABLE = "DERM_RAY_TOKENS"
TIMEOUT = "ray.io/initializing-timeout"
_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
_DURATION = re.compile(r"(?=.*[1-9])([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+|[1-9][0-9]*")
_STEP = re.compile(r"[^.]+")


def check_service(document: Document) -> None:
    """Note what the operator, or we, refuse in a RayService."""
    spec = document.root.at("spec")
    cluster = spec.at("rayClusterConfig")
    check_cluster(cluster)
    if cluster.at("authOptions", "enableK8sTokenAuth").value is True:
        cluster.at("authOptions", "enableK8sTokenAuth").refuse("no RayService can use this", "leave it out")
    if cluster.at("upgradeStrategy").exists:
        cluster.at("upgradeStrategy").refuse("belongs to a RayCluster of its own", "leave it out")
    name = cluster.at("headGroupSpec", "headService", "metadata", "name")
    if name.exists:
        name.refuse("the operator names this service itself", "leave it out")
    timeout = document.root.at("metadata", "annotations", TIMEOUT)
    if timeout.text and not _DURATION.fullmatch(timeout.text):
        timeout.refuse("is no duration", 'such as "30m", or seconds')
    _check_upgrade(spec)
    _check_proxies(cluster)
    config = spec.at("serveConfigV2")
    if not config.text.strip():
        config.refuse("is missing, so that nothing is served", "give a Serve config file as text")
    for inside in config.documents():
        check_serve_config(inside, cluster)


def check_serve_config(document: Document, cluster: Part | None = None) -> None:
    """Note what Serve, or we, refuse in a Serve config file.

    Args:
        document: the file, or the text in a RayService.
        cluster: the RayClusterSpec it is for; ``None`` where that is not known.
    """
    from derm_ray.serving.config import IMPORT_PATH, check_config

    problems = check_config(document.value)
    for problem in problems:
        place, _, what = problem.partition(": ")
        document.refuse(_path(place), what, "see Serve's config file reference and ServeArguments")
    root = document.root
    for app in root.items("applications"):
        if app.at("import_path").value == IMPORT_PATH:
            _check_arguments(app.at("args"), cluster)
    if cluster is None:
        return
    host = root.at("http_options", "host")
    if host.exists and host.value != "0.0.0.0":  # noqa: S104
        host.refuse("Kubernetes' services cannot reach it", "say host: 0.0.0.0")
    workers = cluster.items("workerGroupSpecs")
    if workers and root.at("proxy_location").value != "EveryNode":
        root.at("proxy_location").refuse(
            "the operator asks every worker's proxy whether it is ready", "say proxy_location: EveryNode"
        )


def _check_arguments(args: Part, cluster: Part | None) -> None:
    if args.at("insecure").value is True:
        args.at("insecure").refuse("everybody is let in", "leave it out, and give tokens")
    elif not args.at("tokens").exists and not _has_tokens(cluster):
        args.at("tokens").refuse(
            f"there are no tokens, and no {TOKENS_VARIABLE} from a Secret", "give the URI of a token file"
        )
    if cluster is not None and args.at("gpu").value is True and most_gpus(cluster) < (args.at("replicas").number or 1):
        args.at("gpu").refuse(
            f"the cluster grows to {most_gpus(cluster)} GPUs", "raise maxReplicas of a group whose limits name GPUs"
        )


def _has_tokens(cluster: Part | None) -> bool:
    if cluster is None:
        return True
    head = cluster.at("headGroupSpec", "template", "spec").items("containers")[:1]
    return any(TOKENS_VARIABLE in variables(container) for container in head)


def _check_proxies(cluster: Part) -> None:
    """Check that Serve's proxies are ours: they start with the first application, not with our command."""
    for group in (cluster.at("headGroupSpec"), *cluster.items("workerGroupSpecs")):
        for container in group.at("template", "spec").items("containers")[:1]:
            entry = variables(container).get(PROXY_VARIABLE)
            if entry is None or entry.at("value").value != PROXY:
                (entry or container.at("env")).refuse(
                    "Serve's proxy would neither bound a request's head nor keep its controls from callers",
                    f"set {PROXY_VARIABLE} to {PROXY}",
                )


def _check_upgrade(spec: Part) -> None:
    strategy = spec.at("upgradeStrategy")
    kind, options = strategy.at("type"), strategy.at("clusterUpgradeOptions")
    if kind.exists and kind.value not in _UPGRADES:
        kind.refuse(f"{kind.value!r} is no way to upgrade", f"choose one of: {', '.join(_UPGRADES)}")
    if kind.value != "NewClusterWithIncrementalUpgrade":
        return
    if not autoscales(spec.at("rayClusterConfig")):
        kind.refuse("needs the autoscaler", "say enableInTreeAutoscaling: true")
    if not options.exists:
        options.refuse("is missing", "say how fast, and which gateway")
        return
    surge = options.at("maxSurgePercent").number
    step, pause = options.at("stepSizePercent"), options.at("intervalSeconds")
    most = 100 if surge is None else surge
    if not 0 <= most <= 100:
        options.at("maxSurgePercent").refuse("is not within 0 and 100", "give a percentage")
    elif step.number is None or not 0 <= step.number <= most:
        step.refuse(f"is not within 0 and maxSurgePercent {most}", "give a percentage")
    if pause.number is None or pause.number <= 0:
        pause.refuse("is not above 0", "give seconds")
    if not options.at("gatewayClassName").text:
        options.at("gatewayClassName").refuse("is missing", "name the gateway's class")


def _path(place: str) -> tuple[str | int, ...]:
    if place == "the file":
        return ()
    return tuple(int(step) if step.isdecimal() else step for step in _STEP.findall(place))
