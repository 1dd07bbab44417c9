import pytest
import torch

from derm_ray.errors import ConfigError
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.networks import PairNetwork

NETWORKS = ("sole", "share", "triple")


def network(name: str, patient: int | None = 5) -> PairNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(name, "tiny", classes=7, patient=patient)).eval()


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_untrained_term_changes_nothing_and_other_weights_start_alike(name: str) -> None:
    with torch.inference_mode():
        plain = network(name, None)(*images())
        with_term = network(name)(*images(), torch.randn(3, 5))
    for before, after in zip(plain, with_term, strict=True):
        assert (before is None) == (after is None)
        assert before is None or torch.equal(before, after)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_term_goes_to_every_sub_network(name: str) -> None:
    model = network(name)
    torch.nn.init.normal_(model.patient.layers[2].weight)
    torch.nn.init.normal_(model.patient.layers[2].bias)
    clinical, dermoscopy = images()
    vectors = torch.randn(3, 5)
    with torch.inference_mode():
        missing, given = model(clinical, dermoscopy), model(clinical, dermoscopy, vectors)
        zeros, alone = model(clinical, dermoscopy, torch.zeros(3, 5)), model(None, dermoscopy, vectors)
        term = model.patient(vectors) - model.patient(torch.zeros(3, 5))
    for index, one in enumerate(given):
        if one is not None:
            assert torch.allclose(one - missing[index], term, atol=1e-5)
            assert torch.equal(missing[index], zeros[index]), "without patient data, all of it is missing"
    assert torch.allclose(alone.dermoscopy, given.dermoscopy, atol=1e-5)
    assert alone.clinical is None


def test_a_network_without_patient_data_refuses_it() -> None:
    with pytest.raises(AssertionError, match="takes no patient data"):
        network("share", None)(*images(), torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="a CAM network takes no patient data"):
        NetworkConfig("share", "tiny", "cam", 7, patient=5)
