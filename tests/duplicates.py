"""Near duplicates made from real photos, for the test of the audit and for its benchmark.

``python -m tests.duplicates MILK10K OUT`` writes ``OUT/manifest.parquet``: all lesions, and a near duplicate of 200 of
their images, as lesions of their own. ``python -m tests.duplicates MILK10K`` measures hashes on them, without Ray.
"""

import io
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance

from derm_ray import storage
from derm_ray.data.importers.milk10k import import_milk10k
from derm_ray.data.manifest import URI_COLUMNS, Manifest, normalize_schema, write_manifest
from derm_ray.domain import MILK10K

PLANTED = 200


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def _cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), width - round(right * width), height - round(bottom * height))
    )


def _smaller(image: Image.Image) -> Image.Image:
    return image.resize((round(0.7 * image.width), round(0.7 * image.height)), Image.Resampling.BICUBIC)


def _brightness(factor: float) -> Callable[[Image.Image], bytes]:
    return lambda image: _jpeg(ImageEnhance.Brightness(image).enhance(factor))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded (quality 50)": lambda image: _jpeg(image, 50),
    "resized to 0.7": lambda image: _jpeg(_smaller(image)),
    "cropped 3% on each side": lambda image: _jpeg(_cropped(image, 0.03, 0.03, 0.03, 0.03)),
    "cropped 3% at a corner": lambda image: _jpeg(_cropped(image, 0.03, 0.03, 0, 0)),
    "brightness +10%": _brightness(1.1),
    "brightness -10%": _brightness(0.9),
    "all of these": lambda image: _jpeg(
        ImageEnhance.Brightness(_cropped(_smaller(image), 0.03, 0.03, 0.03, 0.03)).enhance(1.1), 50
    ),
}


@dataclass(frozen=True)
class Planted:
    """A manifest with near duplicates: copy's pair_id -> that of its original, and the change."""

    manifest: Manifest
    copies: dict[str, tuple[str, str]]


def plant(manifest: Manifest, folder: str, count: int = PLANTED, seed: int = 0) -> Planted:
    """Add copies of images as lesions of their own: each change in turn, of clinical and dermoscopy images in turn.

    Originals with a split are in ``test`` afterwards, and their copies in ``train``, where ``manifest`` has splits.
    """
    absolute = manifest.absolute()
    rows = absolute.table.to_pylist()
    chosen = random.Random(seed).sample(range(len(rows)), count)
    copies: dict[str, tuple[str, str]] = {}
    added = []
    for number, row in enumerate(chosen):
        change = list(CHANGES)[number % len(CHANGES)]
        column = URI_COLUMNS[number // len(CHANGES) % 2]
        if rows[row]["split"] is not None:
            rows[row]["split"] = "test"
        copy = f"copy_{number}"
        uri = storage.join(folder, f"{copy}.jpg")
        with Image.open(rows[row][column]) as image:
            storage.write_bytes(uri, CHANGES[change](image.convert("RGB")))
        split = None if rows[row]["split"] is None else "train"
        added.append(
            dict.fromkeys(rows[row])
            | {"pair_id": copy, "lesion_id": copy, "diagnosis": rows[row]["diagnosis"], "split": split, column: uri}
        )
        copies[copy] = (rows[row]["pair_id"], change)
    table = pa.Table.from_pylist(rows + added, schema=absolute.table.schema)
    return Planted(normalize_schema(table, storage.join(folder, "manifest.parquet")), copies)


def main(arguments: list[str]) -> None:
    """See the module."""
    manifest = import_milk10k(arguments[0], MILK10K, "m.parquet").manifest
    if len(arguments) > 1:
        planted = plant(manifest, storage.absolute(arguments[1]))
        write_manifest(planted.manifest, planted.manifest.uri)
        print(planted.manifest.uri)
        return
    _measure(sorted(uri for name in URI_COLUMNS for uri in manifest.absolute().column(name) if uri))


def _measure(uris: list[str]) -> None:
    """Print for each number of hashes per image and distance: pairs of other lesions, and copies found by kind."""
    from derm_ray.audit.fingerprint import CROPS, SPEC, Bytes, perceptual_hashes
    from derm_ray.audit.similarity import similarity, thumbnail
    from derm_ray.data.preprocessing import Pixels, image_from_bytes
    from derm_ray.domain import Modality

    def pixels(data: bytes) -> Pixels:
        return image_from_bytes(Modality.CLINICAL, data, SPEC).pixels

    def distance(one: Bytes, other: Bytes) -> np.ndarray:  # type: ignore[type-arg]
        return np.bitwise_count(one ^ other).sum(-1, dtype=np.int16)

    def nearest(one: Bytes, other: Bytes, crops: int) -> np.ndarray:  # type: ignore[type-arg]
        return np.minimum(distance(one[:crops], other[0]).min(0), distance(one[0], other[:crops]).min(0))

    given = [pixels(Path(uri).read_bytes()) for uri in uris]
    hashes = np.stack([perceptual_hashes(image) for image in given])
    lesions = np.array([uri.split("/")[-2] for uri in uris])
    chosen = random.Random(0).sample(range(len(uris)), PLANTED)
    distances = (31, 36, 40, 44, 48, 52, 60)
    copies = {
        name: [pixels(change(Image.open(uris[row]).convert("RGB"))) for row in chosen]
        for name, change in CHANGES.items()
    }
    by_crops = np.moveaxis(hashes, 0, 1)
    near_pairs: list[tuple[int, int]] = []
    for crops in (1, len(CROPS)):
        found = dict.fromkeys(distances, 0)
        for row in range(len(uris)):
            near = nearest(by_crops[:, row, None], by_crops[:, row + 1 :], crops)
            near[lesions[row + 1 :] == lesions[row]] = 256
            near_pairs += [(row, row + 1 + int(other)) for other in np.flatnonzero(near <= distances[-1])]
            for limit in distances:
                found[limit] += int((near <= limit).sum())
        print(f"{crops} hashes an image; distance at most: {distances}\n  pairs of other lesions: {[*found.values()]}")
        for name, images in copies.items():
            apart = [
                int(nearest(perceptual_hashes(copy)[:, None], hashes[row][:, None], crops)[0])
                for copy, row in zip(images, chosen, strict=True)
            ]
            print(f"  {name}: {[sum(one <= limit for one in apart) for limit in distances]} of {PLANTED}")
    print("similarity of details, least of copies and greatest of pairs of other lesions")
    thumbnails = [thumbnail(image) for image in given]
    for name, images in copies.items():
        alike = [similarity(thumbnail(copy), thumbnails[row]) for copy, row in zip(images, chosen, strict=True)]
        print(f"  {name}: {min(alike):.3f}")
    others = [(similarity(thumbnails[one], thumbnails[other]), one, other) for one, other in set(near_pairs)]
    for value, one, other in sorted(others, reverse=True)[:5]:
        print(f"  {value:.3f} {uris[one]} {uris[other]}")


if __name__ == "__main__":
    main(sys.argv[1:])
