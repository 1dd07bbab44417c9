import logging

import pytest

from derm_ray.data.labels import collapse
from derm_ray.domain import label_set
from derm_ray.errors import ConfigError
from derm_ray.training.config import make_config
from derm_ray.training.run.folds import _folds_of, train_folds
from tests.unit.data.test_splits import folded


def test_pairs_that_the_label_set_excludes_are_in_no_fold() -> None:
    manifest = folded(["basal_cell_carcinoma", *["melanoma"] * 20, "squamous_cell_carcinoma", *["solar_lentigo"] * 20])
    config = make_config("debug", {"label_set": "paper15_melanoma", "global_batch_size": 8})
    of_row = _folds_of(manifest, collapse(manifest, label_set(config.label_set)), 4, config, 1)
    assert [at for at, fold in enumerate(of_row) if fold == 0] == [0, 21]
    assert set(of_row[1:21]) == set(of_row[22:]) == {1, 2, 3, 4}


def test_few_groups_are_one_warning_and_what_cannot_be_trained_is_refused_before_any_fold(
    caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = make_config("debug", {"global_batch_size": 8})
    manifest = folded(["melanoma"] * 20 + ["solar_lentigo"] * 2)
    with caplog.at_level(logging.WARNING, "derm_ray"):
        _folds_of(manifest, manifest, 3, config, 2)
    assert len(caplog.records) == 1
    assert "solar_lentigo (2)" in caplog.text
    larger = make_config("debug", {"global_batch_size": 15})
    with pytest.raises(ConfigError, match="the train split has 14 pairs, fewer than global_batch_size 15"):
        _folds_of(manifest, manifest, 3, larger, 2)
    out = tmp_path_factory.mktemp("out")
    both = manifest.with_column("dermoscopy_uri", ["b"] * len(manifest))
    lonely = both.with_column("diagnosis", [*both.column("diagnosis")[:-1], "bowens_disease"])
    with pytest.raises(ConfigError, match=r"of bowens_disease \(1\), solar_lentigo \(1\)"):
        train_folds(config, lonely, str(out), "run", 3)
    assert not list(out.iterdir())
