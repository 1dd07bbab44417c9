"""What KubeRay's operator asks of jobs, once or by the clock, and what we ask."""

import re
from zoneinfo import available_timezones

from derm_ray.operations.cluster.commands import CommandCheck, check_entrypoint
from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.pods import check_pod
from derm_ray.operations.cluster.raycluster import autoscales, check_cluster
from derm_ray.operations.cluster.runtime_env import check_runtime_env
from derm_ray.operations.cluster.versions import check_image

_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_DESCRIPTOR = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|@every [0-9hms.]+")
_CRON = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    ("day of the week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_CRON_ITEM = re.compile(r"(?:\*|\?|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[1-9]\d{0,3}))?", re.ASCII)


def check_job(spec: Part, check: CommandCheck) -> None:
    """Note what the operator, or we, refuse in a job.

    Args:
        spec: a RayJobSpec, of a RayJob or the template of a RayCronJob.
        check: of the command line.
    """
    cluster, selector = spec.at("rayClusterSpec"), spec.at("clusterSelector")
    if cluster.exists:
        check_cluster(cluster)
        if cluster.at("authOptions", "enableK8sTokenAuth").value is True:
            cluster.at("authOptions", "enableK8sTokenAuth").refuse("no RayJob can use this", "leave it out")
        if cluster.at("upgradeStrategy").exists:
            cluster.at("upgradeStrategy").refuse("belongs to a RayCluster of its own", "leave it out")
    if not cluster.exists and not selector.exists:
        cluster.refuse("neither this nor clusterSelector is given", "describe the cluster, or select one")
    if selector.exists:
        _check_selected(spec)
    check_entrypoint(spec.at("entrypoint"), check, cluster)
    if spec.at("runtimeEnvYAML").exists:
        check_runtime_env(spec.at("runtimeEnvYAML"))
    _check_numbers(spec)
    _check_mode(spec)
    _check_deletion(spec)


def check_schedule(spec: Part) -> None:
    """Note what a RayCronJob's schedule gets wrong.

    Args:
        spec: of the RayCronJob.
    """
    schedule = spec.at("schedule")
    if "TZ" in schedule.text:
        schedule.refuse("names a time zone", "give it as timeZone")
    elif schedule.exists and not _DESCRIPTOR.fullmatch(schedule.text):
        fields = schedule.text.split()
        if len(fields) != len(_CRON):
            schedule.refuse(f"has {len(fields)} fields, not five", 'such as "0 2 * * *", every day at two')
        else:
            for text, (name, least, most, names) in zip(fields, _CRON, strict=True):
                if not all(_is_cron(item, least, most, names) for item in text.split(",")):
                    schedule.refuse(f"{text!r} is no {name}", f"{least} to {most}, *, ranges and lists of them")
    zone = spec.at("timeZone")
    if zone.text and zone.text not in available_timezones():
        zone.refuse(f"{zone.text!r} is no time zone", "such as Etc/UTC or Europe/Berlin")
    if schedule.exists and not zone.exists:
        zone.refuse("is missing; the operator's own zone would hold", "such as Etc/UTC")


def _is_cron(item: str, least: int, most: int, names: tuple[str, ...]) -> bool:
    found = _CRON_ITEM.fullmatch(item)
    if found is None:
        return False
    bounds = [found[end] for end in ("first", "last") if found[end] is not None]
    known = {name: row + least for row, name in enumerate(names)}
    numbers = [known.get(one.lower(), int(one) if one.isdecimal() and len(one) < 3 else -1) for one in bounds]
    return all(least <= one <= most for one in numbers) and numbers == sorted(numbers)


def _check_selected(spec: Part) -> None:
    """Check a job that runs on a cluster of another file."""
    if not spec.at("clusterSelector", "ray.io/cluster").text:
        spec.at("clusterSelector", "ray.io/cluster").refuse("is missing", "name the RayCluster")
    mend = "leave it out, or give rayClusterSpec instead of clusterSelector"
    if spec.at("suspend").value is True:
        spec.at("suspend").refuse("a job on a selected cluster cannot be suspended", mend)
    if spec.at("submissionMode").value == "SidecarMode":
        spec.at("submissionMode").refuse("SidecarMode needs a cluster of its own", mend)
    if spec.at("backoffLimit").number:
        spec.at("backoffLimit").refuse("a job on a selected cluster is not tried again", mend)


def _check_numbers(spec: Part) -> None:
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        number = spec.at(name).number
        if number is not None and number <= 0:
            spec.at(name).refuse("is not above 0", "give seconds")
    for name in ("backoffLimit", "ttlSecondsAfterFinished"):
        if (spec.at(name).number or 0) < 0:
            spec.at(name).refuse("is below 0", "give 0 or more")


def _check_mode(spec: Part) -> None:
    mode, template = spec.at("submissionMode"), spec.at("submitterPodTemplate")
    if mode.exists and mode.value not in _MODES:
        mode.refuse(f"{mode.value!r} is no way to submit", f"choose one of: {', '.join(_MODES)}")
    if mode.value == "InteractiveMode" and spec.at("backoffLimit").number:
        spec.at("backoffLimit").refuse("InteractiveMode is not tried again", "leave one of them out")
    if mode.value == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig"):
            if spec.at(name).exists:
                spec.at(name).refuse("SidecarMode has no pod of its own", "leave it out")
        policy = spec.at("rayClusterSpec", "headGroupSpec", "template", "spec", "restartPolicy")
        if policy.exists and policy.value != "Never":
            policy.refuse("the head must not restart under SidecarMode", "say Never, or leave it out")
    elif template.exists:
        pod = template.at("spec")
        for container in pod.items("containers")[:1]:
            check_image(container.at("image"))
        check_pod(pod)
        if pod.at("restartPolicy").value not in ("Never", "OnFailure"):
            pod.at("restartPolicy").refuse("the pod of a Kubernetes Job must not always restart", "say Never")
        if pod.at("automountServiceAccountToken").value is not False:
            pod.at("automountServiceAccountToken").refuse(
                "the pod that submits gets a key to Kubernetes", "say automountServiceAccountToken: false"
            )
    elif mode.value in (None, "K8sJobMode"):
        template.refuse("the operator's own pod that submits may run as root", "describe one, or say HTTPMode")


def _check_deletion(spec: Part) -> None:
    """Check what becomes of the cluster when the job has ended."""
    shuts_down = spec.at("shutdownAfterJobFinishes").value is True
    strategy = spec.at("deletionStrategy")
    if not shuts_down:
        if spec.at("ttlSecondsAfterFinished").number:
            spec.at("ttlSecondsAfterFinished").refuse(
                "has no effect without shutdownAfterJobFinishes", "say shutdownAfterJobFinishes: true"
            )
        if spec.at("suspend").value is True:
            spec.at("suspend").refuse("needs shutdownAfterJobFinishes", "say shutdownAfterJobFinishes: true")
        if spec.at("rayClusterSpec").exists and not strategy.exists:
            spec.at("shutdownAfterJobFinishes").refuse(
                "the cluster stays, and is paid for, when the job has ended", "say shutdownAfterJobFinishes: true"
            )
    if not strategy.exists:
        return
    rules = strategy.items("deletionRules")
    ends = [strategy.at(end) for end in ("onSuccess", "onFailure")]
    if rules and shuts_down:
        strategy.at("deletionRules").refuse("excludes shutdownAfterJobFinishes", "keep one of the two")
    if rules and any(end.exists for end in ends):
        strategy.at("deletionRules").refuse("excludes onSuccess and onFailure", "keep the rules")
    if not rules and not all(end.exists for end in ends):
        strategy.refuse("has neither rules nor both onSuccess and onFailure", "give deletionRules")
    for place in (*rules, *ends):
        policy = place.at("policy")
        if policy.value == "DeleteWorkers" and autoscales(spec.at("rayClusterSpec")):
            policy.refuse("DeleteWorkers does not go with the autoscaler", "say DeleteCluster")
        if policy.value in ("DeleteWorkers", "DeleteCluster") and spec.at("clusterSelector").exists:
            policy.refuse("the job does not own the cluster it selects", "say DeleteSelf or DeleteNone")
    for end in ends:
        if shuts_down and end.at("policy").value == "DeleteNone":
            end.at("policy").refuse("contradicts shutdownAfterJobFinishes", "keep one of the two")
    _check_rules(rules)


def _check_rules(rules: list[Part]) -> None:
    times: dict[str, dict[str, int]] = {}
    for rule in rules:
        condition = rule.at("condition")
        statuses = [condition.at(name) for name in ("jobStatus", "jobDeploymentStatus")]
        given = [status for status in statuses if status.exists]
        if len(given) != 1:
            condition.refuse(f"names {len(given)} statuses", "give one of jobStatus and jobDeploymentStatus")
            continue
        status, policy = f"{given[0].path[-1]} {given[0].value}", rule.at("policy").text
        if policy in times.setdefault(status, {}):
            rule.refuse(f"another rule says {policy} for {status}", "leave one of them out")
        times[status][policy] = condition.at("ttlSeconds").number or 0
        ordered = [times[status][one] for one in _ORDER if one in times[status]]
        if ordered != sorted(ordered):
            rule.refuse(f"for {status}, workers, cluster and job go in another order", "ttlSeconds must not fall")
