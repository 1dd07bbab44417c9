import numpy as np

from derm_ray.data.patient import PatientEncoder
from derm_ray.domain import LesionPair
from derm_ray.training.batches import LabeledPairs
from derm_ray.training.patient_dropout import PatientDropout

PAIRS = 2000
ROWS = np.arange(PAIRS)


def split(encoder: PatientEncoder) -> LabeledPairs:
    listed = tuple(LesionPair(str(i), str(i)) for i in range(PAIRS))
    return LabeledPairs(listed, ROWS, np.ones((PAIRS, 1), bool), patient=np.ones((PAIRS, encoder.width), np.float32))


def test_whole_fields_are_left_out_at_their_rate(patient_encoder: PatientEncoder) -> None:
    pairs = split(patient_encoder)
    share = PatientDropout(patient_encoder, 0.3, seed=0, epoch=0)(pairs.share(ROWS))
    assert share.patient is not None
    kept = np.stack([share.patient[:, span].min(1) for span in patient_encoder.spans.values()], 1)
    assert np.array_equal(kept, np.stack([share.patient[:, of].max(1) for of in patient_encoder.spans.values()], 1))
    assert np.allclose(kept.mean(0), 0.7 * 0.7, atol=0.04)
    assert abs((kept.max(1) == 0).mean() - (0.3 + 0.7 * 0.3**3)) < 0.04
    assert pairs.patient is not None
    assert pairs.patient.all(), "the split keeps its data"


def test_draws_depend_on_seed_epoch_and_pair_only(patient_encoder: PatientEncoder) -> None:
    pairs = split(patient_encoder)
    dropout = PatientDropout(patient_encoder, 0.3, seed=0, epoch=1)
    whole = dropout(pairs.share(ROWS)).patient
    halves = [dropout(pairs.share(ROWS, rank, 2)).patient for rank in range(2)]
    assert np.array_equal(whole, np.concatenate(halves))
    for other in (PatientDropout(patient_encoder, 0.3, 0, 2), PatientDropout(patient_encoder, 0.3, 1, 1)):
        assert not np.array_equal(whole, other(pairs.share(ROWS)).patient)
    assert PatientDropout(patient_encoder, 0.0, 0, 0)(pairs.share(ROWS)).patient.all()  # type: ignore[union-attr]
