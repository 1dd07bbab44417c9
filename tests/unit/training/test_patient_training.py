"""Training with patient data, in this process."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from derm_ray.data.manifest import Manifest
from derm_ray.data.patient_columns import fit_encoder
from derm_ray.domain import PAPER15, PredictionKind, Split
from derm_ray.errors import ConfigError
from derm_ray.models.factory import build_network
from derm_ray.training.batches import Batch, labeled
from derm_ray.training.config import debug, make_config
from derm_ray.training.loop import TrainingLoop
from derm_ray.training.optimizer import make_optimizer


def test_the_recipe_names_columns() -> None:
    config = make_config("debug", {"patient_data": " age, sex ,", "patient_dropout": "0.5"})
    assert config.patient_fields == ("age", "sex")
    assert config.architecture(None, 5).patient == 5
    with pytest.raises(ConfigError, match="patient_data repeats age"):
        make_config("debug", {"patient_data": "age,age"})
    with pytest.raises(ConfigError, match="patient_dropout"):
        make_config("debug", {"patient_dropout": 1})


def test_a_split_carries_its_vectors(pairs: Manifest) -> None:
    encoder = fit_encoder(("age", "sex"), pairs, pairs.select(Split.TRAIN))
    split = labeled(pairs, Split.VAL, PAPER15, encoder)
    share = split.share(np.arange(7), 1, 2)
    ages = pairs.select(Split.VAL).table["age"].to_pylist()
    assert share.patient is not None
    assert share.patient[0] == pytest.approx(encoder.encode([{"age": ages[4], "sex": _sex(pairs, 4)}])[0])
    assert labeled(pairs, Split.VAL, PAPER15).patient is None
    assert split.listed[4].patient == {"age": ages[4], "sex": _sex(pairs, 4)}


def _sex(pairs: Manifest, row: int) -> str:
    return str(pairs.select(Split.VAL).column("sex")[row])


def test_the_network_learns_from_patient_data_alone() -> None:
    """Images are the same everywhere: only patient data tells the classes apart."""
    config = replace(debug(), size=32, precision="fp32", dropout=0.0, patient_data="age", optimizer="adamw")
    config = replace(config, head_learning_rate=2e-2, learning_rate=1e-4, epochs=60, label_set="paper15_cancer")
    torch.manual_seed(0)
    network = build_network(config.architecture(None, 2))
    labels = np.arange(16) % 2
    images = np.full((16, 32, 32, 3), 128, np.uint8)
    vectors = np.stack([labels * 2 - 1, np.ones(16)], 1).astype(np.float32)
    batch = Batch(images, images, np.eye(2, dtype=bool)[labels], np.arange(16), 16, patient=vectors)
    loop = TrainingLoop(config, network, torch.device("cpu"))
    for epoch in range(60):
        loop.train_epoch(epoch, [batch], lambda *_: None, steps=1)
    given = loop.predict([batch], 16)
    assert all((given[kind].argmax(1) == labels).all() for kind in PredictionKind)
    missing = loop.predict([replace(batch, patient=np.zeros_like(vectors))], 16)
    assert len(set(missing[PredictionKind.CROSS].argmax(1))) == 1


def test_its_layers_have_the_rate_of_heads() -> None:
    config = make_config("debug", {"learning_rate": 1e-5, "head_learning_rate": 1e-2})
    network = build_network(config.architecture(None, 5))
    optimizer = make_optimizer(network, config)
    (rate,) = (
        group["lr"]
        for group in optimizer.param_groups
        if any(p is network.patient.layers[0].weight for p in group["params"])
    )
    assert rate == 1e-2
