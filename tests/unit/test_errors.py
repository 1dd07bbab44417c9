import pickle

import pytest

from derm_ray.errors import (
    BundleError,
    DermRayError,
    ImageError,
    ImageErrorCode,
    InputError,
    ManifestError,
    WorkError,
    counted,
    unknown_name,
)


def test_exit_codes_tell_bad_input_from_failed_work() -> None:
    assert {InputError.exit_code, BundleError.exit_code} == {2}
    assert WorkError.exit_code == 1


@pytest.mark.parametrize(
    "error", [ImageError(ImageErrorCode.CORRUPT, "damaged"), ManifestError("m.csv", ["row 1: bad"])]
)
def test_errors_cross_process_borders(error: DermRayError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_a_long_list_of_problems_is_cut_but_counted() -> None:
    message = str(ManifestError("m.csv", [f"row {i}" for i in range(50)]))
    assert "50 problems" in message
    assert "... and 30 more" in message


def test_one_of_something_is_singular() -> None:
    assert [counted(count, "error") for count in (0, 1, 1200)] == ["0 errors", "1 error", "1,200 errors"]


def test_unknown_name_suggests_the_nearest() -> None:
    assert "Did you mean 'paper15'?" in unknown_name("label set", "paper5", ("paper15", "milk10k"))
    assert "Did you mean" not in unknown_name("label set", "zzz", ("paper15", "milk10k"))
