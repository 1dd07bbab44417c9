"""Fixtures: an encoding of patient data, and a model that uses it."""

import pytest

from derm_ray.data.patient import CategoryField, NumberField, PatientEncoder

ENCODER = PatientEncoder(
    (
        NumberField("age", 50, 20, 0, 120),
        CategoryField("sex", ("female", "male")),
        CategoryField("site", ("head_neck_face", "trunk")),
    )
)
"""Of columns that the synthetic pairs have; one of their sites is not known."""


@pytest.fixture(scope="session")
def patient_encoder() -> PatientEncoder:
    return ENCODER


@pytest.fixture(scope="session")
def patient_bundle_uri(patient_encoder: PatientEncoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that uses patient data."""
    from derm_ray.models.factory import NetworkConfig
    from tests.conftest import seal_untrained

    config = NetworkConfig(trunk="tiny", patient=patient_encoder.width)
    return seal_untrained(str(tmp_path_factory.mktemp("bundles") / "patient"), config, patient=patient_encoder)
