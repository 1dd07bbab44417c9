"""Versions in cluster files: image, ``rayVersion`` and the installed Ray must be the same."""

import re
from importlib.metadata import version

from derm_ray import __version__
from derm_ray.operations.cluster.documents import Part

_TAG = re.compile(r"(?P<ours>\d+\.\d+\.\d+)-ray(?P<ray>\d+\.\d+\.\d+)(-[a-z0-9.]+)?")
_RAYS_TAG = re.compile(r"(?P<ray>\d+\.\d+\.\d+)(-[a-z0-9.-]+)?")


def check_ray_version(ray_version: Part) -> None:
    """Report a ``rayVersion`` other than the installed Ray."""
    if ray_version.value != version("ray"):
        found = f"is {ray_version.value}" if ray_version.exists else "is missing"
        ray_version.refuse(f"{found}, the installed Ray is {version('ray')}", f'set rayVersion: "{version("ray")}"')


def check_image(image: Part) -> None:
    """Report an image whose tag does not name the installed versions, as ``derm-ray:0.1.0-ray2.60.0-cuda`` does."""
    name, _, tag = image.text.partition("@")[0].rpartition(":")
    rays_own = name.endswith("rayproject/ray")
    wanted = f"{version('ray')}-py311" if rays_own else f"{__version__}-ray{version('ray')}"
    fix = f"use a tag such as {wanted}"
    if not name or "/" in tag:
        image.refuse(f"the image {image.text or 'name'} has no tag, so its versions are unknown", fix)
        return
    found = (_RAYS_TAG if rays_own else _TAG).fullmatch(tag)
    if found is None:
        image.refuse(f"the tag {tag} does not name the versions of Ray and derm_ray in the image", fix)
        return
    if found["ray"] != version("ray"):
        image.refuse(f"the image contains Ray {found['ray']}, the installed one is {version('ray')}", fix)
    if not rays_own and found["ours"] != __version__:
        image.refuse(f"the image contains derm_ray {found['ours']}, this is {__version__}", fix)
