"""What derm_ray requires of Ray clusters and jobs on Kubernetes: a token, its own versions, no privilege, no secret."""

from derm_ray.operations.cluster.commands import CommandCheck, check_entrypoint
from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.kubernetes import check_environment, check_pod, check_security, refuse_secret
from derm_ray.operations.cluster.schemas import unknown_field
from derm_ray.operations.cluster.versions import check_image, check_ray_version
from derm_ray.ray_internals import runtime_env_fields


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
    _check_ray_pod(head.at("template", "spec"), "the head", needs_kubernetes=autoscales)
    if autoscales:
        options = spec.at("autoscalerOptions")
        check_security(options.at("securityContext"), head.at("template", "spec", "securityContext"))
        check_environment(options)
    for group in spec.items("workerGroupSpecs"):
        _check_ray_pod(group.at("template", "spec"), f"the group {group.at('groupName').text}")


def check_job(spec: Part, check: CommandCheck) -> None:
    """Report what is unsafe or wrong in a job.

    Args:
        spec: a RayJobSpec, of a RayJob or the template of a RayCronJob.
        check: of the command line.
    """
    cluster = spec.at("rayClusterSpec")
    if cluster.exists:
        check_cluster(cluster)
    elif not spec.at("clusterSelector").exists:
        cluster.refuse("neither this nor clusterSelector is given", "describe the cluster, or select one")
    check_entrypoint(spec.at("entrypoint"), check)
    if spec.at("runtimeEnvYAML").exists:
        _check_runtime_env(spec.at("runtimeEnvYAML"))
    submitter = spec.at("submitterPodTemplate")
    if spec.at("submissionMode").value not in (None, "K8sJobMode"):
        return  # only this mode has a pod that submits
    if submitter.exists:
        _check_ray_pod(submitter.at("spec"), "the submitter pod")
    else:
        submitter.refuse("the operator's default submitter pod may run as root", "describe one, or use HTTPMode")


def _check_ray_pod(pod: Part, name: str, *, needs_kubernetes: bool = False) -> None:
    for container in pod.items("containers")[:1]:  # Ray's own
        check_image(container.at("image"))
    check_pod(pod)
    account = pod.at("automountServiceAccountToken")
    if needs_kubernetes and account.value is False:
        account.refuse("the autoscaler beside the head cannot reach Kubernetes", "remove it here")
    if not needs_kubernetes and account.value is not False:
        account.refuse(f"{name} gets credentials for Kubernetes", "set automountServiceAccountToken: false")


def _check_runtime_env(text: Part) -> None:
    """Report what is wrong with YAML of the fields of :class:`ray.runtime_env.RuntimeEnv`."""
    from ray.runtime_env import RuntimeEnv

    for document in text.documents():
        root = document.root
        if not isinstance(root.value, dict):
            root.refuse("is not a mapping", "give fields such as env_vars")
            continue
        known = sorted(runtime_env_fields())
        unknown = [key for key in root.value if key not in known]
        for key in unknown:
            root.at(key).refuse(unknown_field(key, known), "Ray ignores it")
        for name in ("working_dir", "py_modules"):
            value = root.at(name)
            for uri in [value, *value.items()]:
                if uri.text and "://" not in uri.text:
                    uri.refuse("is a folder on this machine only", "give a URI of a .zip, or use the image")
        for name, variable in root.entries("env_vars").items():
            refuse_secret(name, variable, "give it to the containers from a Secret")
        if not unknown:
            try:
                RuntimeEnv(**root.value)
            except Exception as error:  # Ray raises several types, also Exception itself
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                root.refuse(reason, "correct the runtime environment")
