from pathlib import Path

import pytest

from derm_ray.data.reference import Distribution, Quantity
from derm_ray.models.factory import NetworkConfig
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.deployment import build
from tests.conftest import seal_untrained

REFERENCE = (Distribution(Quantity.DIAGNOSIS, "both", 200, ("melanoma", "other"), (), (0.25, 0.75)),)


def test_a_model_without_a_reference_is_served_and_that_is_said(
    bundle_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = seal_untrained(str(tmp_path / "watched"), NetworkConfig(trunk="tiny"), reference=REFERENCE)
    with caplog.at_level("INFO", "derm_ray"):
        build(ServeArguments(model=watched, engine="torch"), None)
        assert "drift" not in caplog.text
        build(ServeArguments(model=bundle_uri, engine="torch"), None)
    assert f"{bundle_uri}: the endpoint exports no drift metrics" in caplog.text
