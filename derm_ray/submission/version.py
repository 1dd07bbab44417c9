"""Whether a cluster runs the version of derm_ray that a job was submitted for."""

from derm_ray import __version__
from derm_ray.errors import ConfigError

# Where a job finds the version its submitter expects on the cluster.
VERSION_VARIABLE = "DERM_RAY_SUBMITTED_VERSION"


def check_version(expected: str | None) -> None:
    """Check, inside a job, that this derm_ray is the one its submitter expects; ``None`` accepts any.

    Raises:
        ConfigError: it is another.
    """
    if expected is not None and expected != __version__:
        raise ConfigError(
            f"the cluster runs derm_ray {__version__}, the job was submitted for {expected}. Submit with "
            f"--package WHEEL of {expected}, or use an image that contains {expected}."
        )
