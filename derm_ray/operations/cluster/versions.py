"""Versions in cluster files: image, ``rayVersion`` and the installed Ray are one."""

import re
from importlib.metadata import version

from derm_ray import __version__
from derm_ray.operations.cluster.documents import Part

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_TAG = re.compile(r"(?P<ours>\d+\.\d+\.\d+)-ray(?P<ray>\d+\.\d+\.\d+)(-[a-z0-9.]+)?")
_RAYS_TAG = re.compile(r"(?P<ray>\d+\.\d+\.\d+)(-[a-z0-9.-]+)?")


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version such as ``2.60.0``, none where it is no version."""
    found = _VERSION.match(text)
    return tuple(map(int, found.groups())) if found else ()


def check_ray_version(ray_version: Part) -> None:
    """Note a ``rayVersion`` other than the Ray this derm_ray is installed with."""
    if ray_version.value != version("ray"):
        found = f"is {ray_version.value}" if ray_version.exists else "is missing"
        ray_version.refuse(f"{found}, not the Ray derm_ray is installed with", f'say rayVersion: "{version("ray")}"')


def check_image(image: Part) -> None:
    """Note an image whose tag does not say our versions, as ``derm-ray:0.1.0-ray2.60.0-cuda`` does."""
    name, _, tag = image.text.partition("@")[0].rpartition(":")
    rays_own = name.endswith("rayproject/ray")
    wanted = f"{version('ray')}-py311" if rays_own else f"{__version__}-ray{version('ray')}"
    mend = f"use a tag such as {wanted}"
    if not name or "/" in tag:
        image.refuse(f"the image {image.text or 'name'} has no tag, and so no version", mend)
        return
    found = (_RAYS_TAG if rays_own else _TAG).fullmatch(tag)
    if found is None:
        image.refuse(f"the tag {tag} does not say which Ray and derm_ray the image holds", mend)
        return
    if found["ray"] != version("ray"):
        image.refuse(f"the image holds Ray {found['ray']}, derm_ray is installed with {version('ray')}", mend)
    if not rays_own and found["ours"] != __version__:
        image.refuse(f"the image holds derm_ray {found['ours']}, this is {__version__}", mend)
