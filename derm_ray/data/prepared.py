"""A prepared manifest: the same lesion pairs, their images decoded, resized and kept as PNG inside tar files."""

import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
from PIL import Image

from derm_ray import storage
from derm_ray.data.archives.address import TarMember
from derm_ray.data.archives.containers import Damaged
from derm_ray.data.archives.tars import TarFile
from derm_ray.data.loading import THREADS, load_all
from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.data.preprocessing import PairPixels, Pixels, Preprocessing
from derm_ray.data.validation import validate
from derm_ray.domain import LesionPair, Modality, image_cell
from derm_ray.errors import ConfigError, ManifestError, OutputExistsError
from derm_ray.observability import ProgressLine

MANIFEST = "manifest.parquet"
COLUMN = "prepared_size"
TAR_BYTES = 128 * 1024 * 1024
"""Bound on the pixels of one tar; those of two are in memory at once."""
TAR_PAIRS = 2000

_Uris = Mapping[str, str]
"""Member name -> address, relative to the folder."""


@dataclass(frozen=True)
class Prepared:
    """Result of :func:`prepare`.

    Attributes:
        manifest: as written.
        tars: files with images.
        reused: of them, left by an earlier invocation.
    """

    manifest: Manifest
    tars: int
    reused: int


@dataclass(frozen=True)
class _Block:
    """The pairs of one tar, named by a digest of their image URIs and the preprocessing."""

    pairs: Sequence[LesionPair]
    name: str

    @property
    def members(self) -> list[dict[Modality, list[str]]]:
        """The names of each pair's images inside the tar."""
        return [
            {m: [f"{index:04d}/{m}_{number}.png" for number in range(len(pair.uris(m)))] for m in Modality}
            for index, pair in enumerate(self.pairs)
        ]


def prepare(manifest: Manifest, out_uri: str, spec: Preprocessing) -> Prepared:
    """Write a manifest's images at a model's input size, so that training neither decodes nor resizes large photos.

    The pixels that are loaded from the prepared manifest equal those of the original at the same size, bit by bit.
    ``manifest.parquet`` is written last: a folder without it is unfinished, and the same call resumes it. Existing
    tars are reused if the URIs of their images match; the images' content is not compared. Missing images stay
    missing; flags (such as ``animated``) are not kept.

    Args:
        manifest: any pairs.
        out_uri: the folder; the image URIs in its manifest are relative, so that it can be moved whole.
        spec: target size.

    Raises:
        OutputExistsError: the folder already holds a manifest.
        ConfigError: the manifest is itself prepared, at another size.
        ManifestError: rules are broken, or images cannot be used; all are listed.
        StorageError: storage failed.
    """
    out_uri = storage.absolute(out_uri)
    there = storage.list_folder(out_uri)
    if MANIFEST in there:
        raise OutputExistsError(
            f"{out_uri} already contains a {MANIFEST}. Choose another --out, or delete that folder."
        )
    require_size(manifest, spec, "--size")
    validate(manifest)
    most = max(1, min(TAR_PAIRS, TAR_BYTES // (len(Modality) * 3 * spec.size**2)))
    blocks = _cut(manifest.pairs(), spec, most)
    done = {block.name: uris for block in blocks if block.name in there and (uris := _addresses(block, out_uri))}
    reused = len(done)
    todo = [block for block in blocks if block.name not in done]
    pairs = [pair for block in todo for pair in block.pairs]
    progress = ProgressLine(len(manifest), len(manifest) - len(pairs))
    with ThreadPoolExecutor(THREADS) as executor:
        # Only the last block is shorter, so that a chunk is a block.
        for block, loaded in zip(todo, load_all(pairs, spec, manifest.uri, chunk=most), strict=True):
            # Where an image cannot be used, load_all raises at its end.
            if len(loaded) == len(block.pairs):
                done[block.name] = _write(block, loaded, out_uri, executor)
            progress.show(len(block.pairs))
    result = _moved(manifest, blocks, done, spec.size, storage.join(out_uri, MANIFEST))
    write_manifest(result, result.uri)
    return Prepared(result, len(done), reused)


def is_prepared(manifest: Manifest) -> bool:
    """Return whether the images were prepared at one size."""
    return COLUMN in manifest.table.column_names


def require_size(manifest: Manifest, spec: Preprocessing, whose: str) -> None:
    """Refuse a prepared manifest whose images do not match a preprocessing.

    Args:
        manifest: prepared or not.
        spec: what its images will go through.
        whose: origin of the size for messages, such as ``the recipe's size``.

    Raises:
        ConfigError, ManifestError: the images would be resized twice; ``prepared_size`` holds no numbers.
    """
    if not is_prepared(manifest):
        return
    try:
        sizes = set(manifest.table[COLUMN].cast(pa.int64()).unique().to_pylist()) - {None}
    except pa.ArrowException as error:
        raise ManifestError(manifest.uri, [f"column {COLUMN!r} is not int64: {error}"]) from error
    if others := sorted(sizes - {spec.size}):
        raise ConfigError(
            f"{manifest.uri}: its images were prepared at {' and '.join(map(str, others))} px ({COLUMN}), but {whose} "
            f"is {spec.size}; they would be resized twice. Use the original manifest, or prepare it again "
            f"with `derm-ray data prepare --size {spec.size}`."
        )


def _cut(pairs: list[LesionPair], spec: Preprocessing, most: int) -> list[_Block]:
    blocks = []
    for start in range(0, len(pairs), most):
        some = pairs[start : start + most]
        digest = storage.digest([spec.to_json(), [[pair.uris(m) for m in Modality] for pair in some]])
        blocks.append(_Block(some, f"images-{digest[:32]}.tar"))
    return blocks


def _addresses(block: _Block, folder: str) -> _Uris | None:
    """Return the addresses in an existing tar, or ``None`` if it is not usable."""
    try:
        entries = list(TarFile(storage.join(folder, block.name), packed=False).entries())
    except Damaged:
        return None
    expected = [name for names in block.members for some in names.values() for name in some]
    if [entry.name for entry in entries] != expected:
        return None
    return {entry.name: str(TarMember(block.name, entry.name, entry.offset, entry.size)) for entry in entries}


def _write(block: _Block, loaded: Sequence[PairPixels], out_uri: str, executor: Executor) -> _Uris:
    given = [
        (name, pixels)
        for names, pair in zip(block.members, loaded, strict=True)
        for modality in Modality
        for name, pixels in zip(names[modality], pair.all_of(modality), strict=True)
    ]
    with tempfile.TemporaryDirectory(prefix="derm_ray_") as folder:
        path = str(Path(folder) / block.name)
        files = executor.map(_png, (pixels for _, pixels in given))
        with storage.translate_errors(path), tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for (name, _), data in zip(given, files, strict=True):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
        uris = _addresses(block, folder)
        assert uris is not None, "the tar is as it was written"
        storage.upload(path, storage.join(out_uri, block.name))
    return uris


def _png(pixels: Pixels) -> bytes:
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def _moved(manifest: Manifest, blocks: Sequence[_Block], done: Mapping[str, _Uris], size: int, uri: str) -> Manifest:
    """Return the manifest with the addresses of the prepared images."""
    rows = [(done[block.name], names) for block in blocks for names in block.members]
    for m in Modality:
        cells = [image_cell([uris[name] for name in names[m]]) for uris, names in rows]
        manifest = manifest.with_column(f"{m}_uri", cells)
    table = manifest.table
    if COLUMN in table.column_names:
        table = table.drop_columns(COLUMN)
    return Manifest(table.append_column(COLUMN, pa.array([size] * len(rows), pa.int64())), uri)
