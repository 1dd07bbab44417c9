"""The teacher of a run: its probabilities of the train split, computed once and kept in the run's folder."""

import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from derm_ray import storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.prepared import require_size
from derm_ray.data.preprocessing import PairPixels, load_pairs
from derm_ray.datasets import Row, dataset_of, objects, packed, unpacked
from derm_ray.domain import LabelSet, LesionPair, PredictionKind
from derm_ray.errors import ConfigError, DermRayError, ImageError, StorageError
from derm_ray.inference.predictor import Predictor
from derm_ray.training.batches import LabeledPairs, Probabilities

logger = logging.getLogger(__name__)

TEACHER = "teacher.parquet"
PAIRS_PER_ROW = 64
IMAGES_AT_ONCE = 4
ENGINE = "torch"


def load_teacher(uri: str, labels: LabelSet, manifest: Manifest) -> Bundle:
    """Return a teacher for a label set, of any network and size.

    Raises:
        ConfigError: its classes are others, or the manifest's images were prepared at another size than its.
        BundleError, StorageError: it cannot be read.
    """
    teacher = load_bundle(uri)
    own, its = labels.class_names, teacher.label_set.class_names
    if own != its:
        different = [f"{name} only in {where}" for where, name in _differences(own, its)]
        raise ConfigError(
            f"--teacher {uri}: its label set is {teacher.label_set.name}, the recipe's {labels.name}: "
            f"{', '.join(different) or 'the order of classes differs'}. Give --set label_set={teacher.label_set.name}, "
            "or another teacher."
        )
    require_size(manifest, teacher.preprocessing, "the teacher's size")
    return teacher


def _differences(own: Sequence[str], its: Sequence[str]) -> list[tuple[str, str]]:
    only = [("the recipe", name) for name in own if name not in its] + [
        ("the teacher", name) for name in its if name not in own
    ]
    shown = 4
    return only[:shown] + ([("either", f"{len(only) - shown} more")] if len(only) > shown else [])


def learn_from(teacher: Bundle, split: LabeledPairs, run_uri: str, *, use_gpu: bool) -> LabeledPairs:
    """Return a split with the teacher's calibrated probabilities, of the images as they are, not augmented.

    A run that is resumed reads them from its folder, whose identity includes the teacher.

    Raises:
        ImageError: an image cannot be used.
        StorageError: storage failed.
    """
    uri, pairs = storage.join(run_uri, TEACHER), split.pairs
    columns = [f"{kind}_{name}" for kind in PredictionKind for name in teacher.label_set.class_names]
    if not storage.exists(uri):
        values = _predict(teacher, pairs, use_gpu=use_gpu).reshape(len(pairs), -1)
        table = pa.table({"pair_id": [pair.pair_id for pair in pairs], **dict(zip(columns, values.T, strict=True))})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        storage.write_bytes(uri, buffer.getvalue())
    table = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
    if table.column_names != ["pair_id", *columns] or table["pair_id"].to_pylist() != [pair.pair_id for pair in pairs]:
        raise StorageError(f"{uri} does not hold this run's pairs. Remove it; the same command computes it again.")
    values = np.stack([table[name].to_numpy() for name in columns], 1).astype(np.float32)
    return replace(split, teacher=values.reshape(len(pairs), len(PredictionKind), -1))


def _predict(teacher: Bundle, pairs: Sequence[LesionPair], *, use_gpu: bool) -> Probabilities:
    """Return (pairs, 3, classes); all free CPUs, or GPUs, of the cluster compute."""
    logger.info("computing the teacher's predictions of %d pairs", len(pairs))
    parts = [pairs[start : start + PAIRS_PER_ROW] for start in range(0, len(pairs), PAIRS_PER_ROW)]
    free = int(ray.cluster_resources().get("GPU" if use_gpu else "CPU", 1)) - (0 if use_gpu else 1)
    dataset = dataset_of(parts)
    dataset.context.execution_options.preserve_order = True
    predicted = dataset.map(
        _TeacherActor,
        fn_constructor_args=(ray.put(teacher),),
        fn_constructor_kwargs={"use_gpu": use_gpu},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(len(parts), free))),
        num_cpus=1,
        num_gpus=1 if use_gpu else None,
    )
    found: list[Probabilities] = []
    for part in objects(predicted):
        if isinstance(part, DermRayError):
            raise part
        found.append(part)
    return np.concatenate(found)


class _TeacherActor:
    def __init__(self, teacher: "ray.ObjectRef[Bundle]", *, use_gpu: bool) -> None:
        bundle: Bundle = ray.get(teacher)
        self._predictor = Predictor(bundle, ENGINE, device=torch.device("cuda" if use_gpu else "cpu"))
        self._executor = ThreadPoolExecutor(IMAGES_AT_ONCE)

    def __call__(self, row: Row) -> Row:
        pairs: list[LesionPair] = unpacked(row)
        loaded = load_pairs(list(pairs), self._predictor.bundle.preprocessing, self._executor)
        pixels: list[PairPixels] = []
        for pair, found in zip(pairs, loaded, strict=True):
            if isinstance(found, ImageError):
                return packed(ImageError(found.code, f"pair {pair.pair_id}: {found.message}"))
            pixels.append(found)
        predictions = [prediction.per_input_predictions for prediction in self._predictor.predict(pixels)]
        return packed(np.array([[kinds[kind] for kind in PredictionKind] for kinds in predictions], np.float32))
