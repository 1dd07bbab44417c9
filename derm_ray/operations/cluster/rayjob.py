"""What derm_ray requires of jobs on Kubernetes, started once or by schedule."""

from derm_ray.operations.cluster.commands import CommandCheck, check_entrypoint
from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.pods import check_pod
from derm_ray.operations.cluster.raycluster import check_cluster
from derm_ray.operations.cluster.runtime_env import check_runtime_env
from derm_ray.operations.cluster.versions import check_image


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
    check_entrypoint(spec.at("entrypoint"), check, cluster)
    if spec.at("runtimeEnvYAML").exists:
        check_runtime_env(spec.at("runtimeEnvYAML"))
    _check_submitter(spec)


def _check_submitter(spec: Part) -> None:
    """Check the pod that submits the job; only one mode has one."""
    template = spec.at("submitterPodTemplate")
    if spec.at("submissionMode").value not in (None, "K8sJobMode"):
        return
    if not template.exists:
        template.refuse("the operator's default submitter pod may run as root", "describe one, or use HTTPMode")
        return
    pod = template.at("spec")
    for container in pod.items("containers")[:1]:
        check_image(container.at("image"))
    check_pod(pod)
    account = pod.at("automountServiceAccountToken")
    if account.value is not False:
        account.refuse("the submitter pod gets credentials for Kubernetes", "set automountServiceAccountToken: false")
