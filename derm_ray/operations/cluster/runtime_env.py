"""``runtimeEnvYAML``: what Ray makes of an environment for a job."""

from derm_ray.credentials import find_credential, names_a_secret
from derm_ray.operations.cluster.documents import Part
from derm_ray.operations.cluster.schema import unknown_field


def check_runtime_env(text: Part) -> None:
    """Note what is wrong with the YAML of a job's runtime environment.

    Args:
        text: YAML with the fields of :class:`ray.runtime_env.RuntimeEnv`.
    """
    for document in text.documents():
        root = document.root
        if not isinstance(root.value, dict):
            root.refuse("is no mapping", "give fields such as env_vars")
            continue
        from ray.runtime_env import RuntimeEnv

        known = sorted(RuntimeEnv.known_fields - {"_ray_release", "_ray_commit", "_inject_current_ray"})
        unknown = [key for key in root.value if key not in known]
        for key in unknown:
            root.at(key).refuse(unknown_field(key, known), "Ray ignores it")
        for name in ("working_dir", "py_modules"):
            value = root.at(name)
            for place in [value, *value.items()]:
                if place.text and "://" not in place.text:
                    place.refuse("is a folder of whoever applies the file", "give a URI of a .zip, or use the image")
        for name, variable in root.entries("env_vars").items():
            if variable.text and (names_a_secret(name, variable.text) or find_credential(variable.text)):
                variable.refuse(f"{name} looks like a secret", "give it to the containers from a Secret")
        if not unknown:
            try:
                RuntimeEnv(**root.value)
            except Exception as error:  # Ray raises several kinds, also bare ones
                root.refuse((str(error).splitlines() or [type(error).__name__])[0].rstrip("."), "mend the environment")
