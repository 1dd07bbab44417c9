"""``runtimeEnvYAML``: the runtime environment of a job."""

from derm_ray.credentials import find_credential, names_a_secret
from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.schemas import unknown_field
from derm_ray.ray_internals import runtime_env_fields


def check_runtime_env(text: Part) -> None:
    """Report what is wrong with the runtime environment of a job.

    Args:
        text: YAML with the fields of :class:`ray.runtime_env.RuntimeEnv`.
    """
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
            if variable.text and (names_a_secret(name, variable.text) or find_credential(variable.text)):
                variable.refuse(f"{name} looks like a secret", "give it to the containers from a Secret")
        if not unknown:
            try:
                RuntimeEnv(**root.value)
            except Exception as error:  # Ray raises several types, also Exception itself
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                root.refuse(reason, "correct the runtime environment")
