"""Running the grid: every cell is a Ray Train run, as many at once as the cluster holds."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

import numpy as np
import ray

from derm_ray import runtime, storage
from derm_ray.bundle import INDEX, load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.errors import DermRayError, ImageError, StorageError, WorkError
from derm_ray.models.trunks import Trunk, trunk_spec
from derm_ray.models.weights import load_trunk_weights, read_init_weights
from derm_ray.studies.reproduction.grid import Cell
from derm_ray.studies.reproduction.predictions import CellPredictions, read_predictions, write_predictions
from derm_ray.training.config import TrainConfig
from derm_ray.training.run.answers import answer_split
from derm_ray.training.run.cache import plan_stems, prepare_stems
from derm_ray.training.run.driver import labelled, train
from derm_ray.training.run.feed import LabelledPairs
from derm_ray.training.stems import LIMIT_GIB, StemCache, make_room
from derm_ray.vocabulary import Split, label_set

logger = logging.getLogger(__name__)

RUNS = "cells"
CACHE = "cache"
UNAVAILABLE = "not run: weights unavailable"


@dataclass(frozen=True)
class Resources:
    """What one cell's training takes.

    Attributes:
        workers: data-parallel workers.
        cpus: of each worker.
        use_gpu: one GPU per worker.
        cache_limit_gib: bound on the folder of cached activations.
    """

    workers: int = 1
    cpus: int = 1
    use_gpu: bool = False
    cache_limit_gib: float = LIMIT_GIB

    def cells_at_once(self) -> int:
        """Return how many cells the connected Ray holds; one CPU of each is left for reading."""
        there = ray.cluster_resources()
        cells = int(there.get("CPU", 1)) // (self.workers * self.cpus + 1)
        if self.use_gpu:
            cells = min(cells, int(there.get("GPU", 0)) // self.workers)
        return max(1, cells)


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell: its predictions, or the reason why there are none."""

    cell: Cell
    predictions: CellPredictions | None
    problem: str | None = None


class Grid:
    """Runs cells below one folder.

    Args:
        manifest: validated.
        out_uri: the study's folder.
        init_weights: trunk -> safetensors file; trunks without an entry use torchvision's download.
        resources: of each cell.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.
    """

    def __init__(
        self,
        manifest: Manifest,
        out_uri: str,
        init_weights: Mapping[str, str],
        resources: Resources,
        address: str | None = None,
    ) -> None:
        self._manifest = manifest
        self._out_uri = out_uri
        self._init_weights = init_weights
        self._resources = resources
        self._address = address

    def finished(self, cells: Sequence[Cell]) -> list[CellOutcome]:
        """Return what earlier calls have done of some cells."""
        read = ((cell, read_predictions(self._folder(cell))) for cell in cells)
        return [CellOutcome(cell, predictions) for cell, predictions in read if predictions is not None]

    def seeds(self) -> list[int]:
        """Return the seeds of all cells that lie in the folder."""
        folder = storage.join(self._out_uri, RUNS)
        names = {uri.removeprefix(folder).strip("/").split("/")[0] for uri in storage.list_files(folder)}
        endings = {name.rpartition("-seed")[2] for name in names if "-seed" in name}
        return sorted(int(ending) for ending in endings if ending.isdecimal())

    def run(self, cells: Sequence[Cell]) -> list[CellOutcome]:
        """Run what is not done yet; a cell that fails leaves the others running.

        Args:
            cells: in an order in which CAM networks stand before the cells that need them.
        """
        done = {cell: read_predictions(self._folder(cell)) for cell in cells}
        problems: dict[Cell, str] = {}
        waiting = [cell for cell in cells if done[cell] is None]
        logger.info("%d cells, %d of them done before", len(cells), len(cells) - len(waiting))
        missing = self._missing_weights({trunk for cell in waiting for trunk in cell.trunks})
        problems |= {cell: UNAVAILABLE for cell in waiting if cell.trunks & missing}
        if len(problems) == len(cells):
            raise StorageError(
                "no cell can start: torchvision's ImageNet weights cannot be downloaded here. "
                "Give a local file with --init-weights."
            )
        if ready := [cell for cell in waiting if cell not in problems]:
            size = self._resources
            cpus = max(runtime.machine_cpus() * 2, size.workers * size.cpus + 2)
            with runtime.ray_session(self._address, num_cpus=cpus) as session:
                session.require(cpus=size.workers * size.cpus + 1, gpus=size.workers if size.use_gpu else 0)
                self._prepare_stems(ready)
                for cell, result in self._run_all(ready).items():
                    if isinstance(result, CellPredictions):
                        done[cell] = result
                    else:
                        problems[cell] = f"failed: {_publishable(result)}"
        return [CellOutcome(cell, done[cell], problems.get(cell)) for cell in cells]

    def _missing_weights(self, trunks: set[str]) -> set[str]:
        """Return the trunks whose weights neither a file nor torchvision supplies."""
        missing = set()
        for trunk in sorted(trunks):
            if trunk_spec(trunk).pretrained is None:
                continue
            try:
                read_init_weights(trunk, self._init_weights.get(trunk))
            except StorageError as error:
                if trunk in self._init_weights:
                    raise
                logger.warning("%s", error)
                missing.add(trunk)
        return missing

    def _prepare_stems(self, cells: Sequence[Cell]) -> None:
        """Compute what several cells share before they start, so that they do not do it side by side.

        Room is made for all of it at once: no cell may remove what another reads.
        """
        configs = {(c.config.trunk, c.config.freeze): c.config for c in cells if c.cached}.values()
        folder, size = storage.join(self._out_uri, CACHE), self._resources
        planned: list[tuple[StemCache, int]] = []
        for config in configs:
            trunk, parts = self._trunk(config), self._parts(config, tuple(Split))
            caches = plan_stems(config, trunk, parts, folder, use_gpu=size.use_gpu)
            planned += [(cache, len(parts[split].listed)) for split, cache in caches.items()]
        make_room(folder, planned, size.cache_limit_gib)
        for config in configs:
            self._stems(config, tuple(Split))

    def _stems(self, config: TrainConfig, splits: Sequence[Split]) -> dict[Split, StemCache]:
        folder, size = storage.join(self._out_uri, CACHE), self._resources
        trunk, parts = self._trunk(config), self._parts(config, splits)
        return prepare_stems(config, trunk, parts, folder, limit_gib=size.cache_limit_gib, use_gpu=size.use_gpu)

    def _parts(self, config: TrainConfig, splits: Sequence[Split]) -> dict[Split, LabelledPairs]:
        return {split: labelled(self._manifest, split, label_set(config.label_set)) for split in splits}

    def _trunk(self, config: TrainConfig) -> Trunk:
        trunk = Trunk(config.trunk, config.tap, config.freeze)
        if trunk_spec(config.trunk).pretrained is not None:
            uri = self._init_weights.get(config.trunk)
            load_trunk_weights(trunk, read_init_weights(config.trunk, uri), uri or "torchvision")
        return trunk

    def _run_all(self, cells: Sequence[Cell]) -> "dict[Cell, CellPredictions | DermRayError]":
        at_once = self._resources.cells_at_once()
        logger.info("%d cells to run, %d at once", len(cells), at_once)
        futures: dict[Cell, Future[CellPredictions]] = {}
        results: dict[Cell, CellPredictions | DermRayError] = {}
        executor = ThreadPoolExecutor(at_once)
        try:
            for cell in cells:
                futures[cell] = executor.submit(self._run, cell, futures.get(cell.cam) if cell.cam else None)
            for cell, future in futures.items():
                try:
                    results[cell] = future.result()
                except DermRayError as error:
                    results[cell] = error
                except Exception as error:
                    # A defect in one cell must not cost the hours of the others.
                    results[cell] = WorkError(f"{type(error).__name__}: {error}")
                    logger.debug("%s", cell.name, exc_info=error)
                if isinstance(results[cell], DermRayError):
                    logger.warning("%s failed: %s", cell.name, results[cell])
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
        return results

    def _run(self, cell: Cell, cam: "Future[CellPredictions] | None") -> CellPredictions:
        """Train a cell where that is left to do, let it answer for the test split, and keep the answers."""
        if cam is not None and (error := cam.exception()) is not None:
            raise WorkError(f"its CAM network failed: {error}") from error
        began, size, config = monotonic(), self._resources, cell.config
        bundle_uri = storage.join(self._folder(cell), "bundle")
        if not storage.exists(storage.join(bundle_uri, INDEX)):
            train(
                config,
                self._manifest,
                storage.join(self._out_uri, RUNS),
                cell.name,
                init_weights=self._init_weights.get(config.trunk),
                cam=storage.join(self._folder(cell.cam), "bundle") if cell.cam is not None else None,
                cache=storage.join(self._out_uri, CACHE) if cell.cached else None,
                cache_limit_gib=size.cache_limit_gib,
                workers=size.workers,
                cpus_per_worker=size.cpus,
                use_gpu=size.use_gpu,
            )
        labels = label_set(config.label_set)
        test = labelled(self._manifest, Split.TEST, labels)
        stems = self._stems(config, [Split.TEST])[Split.TEST] if cell.cached else None
        answers = answer_split(bundle_uri, config, test, stems, use_gpu=size.use_gpu)
        model = load_bundle(bundle_uri)
        metadata = {
            "model_digest": model.model_digest,
            "best_epoch": model.provenance["best_epoch"],
            "last_run_seconds": round(monotonic() - began, 1),
            "temperatures": {str(kind): value for kind, value in model.calibration.temperatures.items()},
        }
        predictions = CellPredictions(
            labels,
            tuple(pair.pair_id for pair in test.pairs),
            tuple(pair.lesion_id for pair in test.pairs),
            np.array(test.labels),
            answers.given,
            answers.swapped,
            metadata,
        )
        write_predictions(predictions, self._folder(cell))
        logger.info("%s  done in %.0f s", cell.name, metadata["last_run_seconds"])
        return predictions

    def bundle_uri(self, row: str, seed: int) -> str:
        """Return where a row's sealed network of one seed lies."""
        return storage.join(self._out_uri, RUNS, f"{row}-seed{seed}", "bundle")

    def _folder(self, cell: Cell) -> str:
        return storage.join(self._out_uri, RUNS, cell.name)


def _publishable(error: DermRayError) -> str:
    """Return an error's text for the report, which must not name patients' images; the log has all of it."""
    if isinstance(error, ImageError):
        return f"an image cannot be used ({error.code}); the log names it"
    return str(error)
