"""Which networks are trained: the rows of the paper's tables, as trials of one seed each."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from derm_ray.models.trunks import TRUNKS
from derm_ray.training.config import TrainConfig, config_from_json, make_config

CAM = "cam"
TASK_SETS = ("cancer", "cancer_isic", "melanoma")


@dataclass(frozen=True, eq=False)
class Row:
    """One configuration of the study.

    Attributes:
        name: part of its trials' names.
        title: for people.
        config: the recipe, without the seed.
        cam: name of the row that trains its CAM network; ``None`` for heads without one.
        paper: the paper's accuracy on the 15 diseases, prediction kind -> 0..1 (Table 1), where it has the row.
    """

    name: str
    title: str
    config: TrainConfig
    cam: str | None = None
    paper: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Trial:
    """A row trained with one seed.

    Attributes:
        row, seed: which.
        cam: the trial that trains its CAM network.
    """

    row: Row
    seed: int
    cam: "Trial | None" = None

    @property
    def name(self) -> str:
        """Folder of its run."""
        return f"{self.row.name}-seed{self.seed}"

    @property
    def config(self) -> TrainConfig:
        """Its recipe."""
        return replace(self.row.config, seed=self.seed)

    @property
    def trunks(self) -> frozenset[str]:
        """Trunks whose weights it needs, including that of its CAM network."""
        return frozenset({self.row.config.trunk}) | (self.cam.trunks if self.cam is not None else frozenset())

    @property
    def cached(self) -> bool:
        """Whether it can be trained on cached activations alone."""
        config = self.row.config
        if config.freeze == "none" or TRUNKS[config.trunk].from_scratch:  # each run draws weights of its own
            return False
        return self.cam is None or (self.cam.config.trunk, self.cam.config.freeze) == (config.trunk, config.freeze)


PAPER_TABLE = {
    ("sole", "plain"): {"dermoscopy": 0.531, "clinical": 0.522, "cross": 0.612},
    ("share", "plain"): {"dermoscopy": 0.550, "clinical": 0.541, "cross": 0.629},
    ("triple", "plain"): {"dermoscopy": 0.601, "clinical": 0.594, "cross": 0.682},
    ("share", "cam_bp"): {"dermoscopy": 0.574, "clinical": 0.581, "cross": 0.646},
    ("triple", "cam_bp"): {"dermoscopy": 0.613, "clinical": 0.612, "cross": 0.700},
}
"""Accuracy, Ge et al. 2017, Table 1."""

_NETWORKS = {"sole": "Sole-Net", "share": "Share-Net", "triple": "Triple-Net"}


PUBLISHED = {"googlenet": "googlenet_2014", "resnet50": "resnet50_v1"}
"""Torchvision's network -> the one of its paper, which has no download."""


def _changed(base: TrainConfig, **settings: Any) -> TrainConfig:
    return config_from_json({**base.to_json(), **settings})


def table_rows(base: TrainConfig, *, cam_trunk: str) -> tuple[Row, ...]:
    """Return the CAM networks, Sole-, Share- and Triple-Net with each head, ResNet-50, and the tasks' own heads.

    Args:
        base: the recipe; its head is that of the networks without bilinear pooling.
        cam_trunk: trunk of the CAM network inside CAM-BP.
    """
    spare = "googlenet" if cam_trunk == "vgg16" else "vgg16"
    rows = [Row(CAM, f"CAM network ({cam_trunk})", cam_config(base, cam_trunk))]
    for network, title in _NETWORKS.items():
        for head, suffix in ((base.head, ""), ("bp", " + BP"), ("cam_bp", " + CAM-BP")):
            kind = "plain" if head == base.head else head
            config = _changed(base, network=network, head=head)
            cam = CAM if head == "cam_bp" else None
            rows.append(Row(f"{network}-{head}", title + suffix, config, cam, PAPER_TABLE.get((network, kind))))
    rows.append(Row(f"{CAM}-{spare}", f"CAM network ({spare})", cam_config(base, spare)))
    other = _changed(base, network="triple", head="cam_bp")
    rows.append(Row(f"triple-cam_bp-{spare}", f"Triple-Net + CAM-BP ({spare})", other, f"{CAM}-{spare}"))
    resnet = _changed(base, network="sole", trunk="resnet50", freeze="none" if base.freeze == "none" else "layer3")
    rows.append(Row("resnet50", "ResNet-50", _changed(resnet, head="gap")))
    # 2048 channels would make a Gram matrix sixteen times as large.
    rows.append(Row("resnet50-bp", "ResNet-50 + BP", _changed(resnet, head="bp", rank=512)))
    for task in TASK_SETS:
        config = _changed(base, network="triple", head="cam_bp", label_set=f"{base.label_set}_{task}")
        rows.append(Row(f"triple-cam_bp-{task}", f"Triple-Net + CAM-BP, {task.replace('_', ' ')} head", config, CAM))
    return tuple(rows)


def cam_config(base: TrainConfig, trunk: str) -> TrainConfig:
    """Return the recipe of a CAM network: one for both modalities, trained on its own (Ge et al. 2017, section 3)."""
    freeze = "none" if base.freeze == "none" else next(iter(TRUNKS[trunk].freezes))
    return _changed(base, network="share", head="cam", trunk=trunk, freeze=freeze, tap=None)


def paper(label_set: str) -> tuple[Row, ...]:
    """The paper's recipe at 224 px with fc heads and GoogLeNet-GAP for GPUs."""
    return table_rows(make_config("paper", {"label_set": label_set}), cam_trunk="googlenet")


def milk10k_cpu(label_set: str) -> tuple[Row, ...]:
    """128 px, VGG-16 frozen through pool4, GAP heads and VGG-16-GAP: hours on two cores."""
    return table_rows(make_config("cpu", {"label_set": label_set}), cam_trunk="vgg16")


def debug(label_set: str) -> tuple[Row, ...]:
    """A few trials of the tiny trunk: minutes."""
    base = make_config("debug", {"label_set": label_set})
    networks = (Row(f"{name}-gap", title, _changed(base, network=name)) for name, title in _NETWORKS.items())
    pooled = Row("triple-cam_bp", "Triple-Net + CAM-BP", _changed(base, head="cam_bp"), CAM)
    return (Row(CAM, "CAM network (tiny)", cam_config(base, "tiny")), *networks, pooled)


def as_published(rows: Sequence[Row], available: Collection[str]) -> tuple[Row, ...]:
    """Return rows with the networks that the paper used in place of torchvision's, where their weights are available.

    GoogLeNet was published in 2014 with other layers, and ResNet-50 with its strides in other layers.
    """
    published = {name: other for name, other in PUBLISHED.items() if other in available}
    return tuple(
        replace(row, config=_changed(row.config, trunk=published.get(row.config.trunk, row.config.trunk)))
        for row in rows
    )


def make_trials(rows: Sequence[Row], seeds: Sequence[int]) -> list[Trial]:
    """Return all trials: seed by seed, and within a seed what others wait for first."""
    trials: list[Trial] = []
    for seed in seeds:
        cams = {row.name: Trial(row, seed) for row in rows if row.config.head == "cam"}
        others = [Trial(row, seed, cams[row.cam] if row.cam else None) for row in rows if row.name not in cams]
        trials += [*cams.values(), *sorted(others, key=lambda trial: trial.cam is not None)]
    return trials
