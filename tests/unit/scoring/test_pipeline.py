"""What a user reads of an error in a worker."""

from derm_ray.scoring.pipeline import _reason

ADVICE = (
    "Failed to run map after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, backoff, or which errors are "
    "retried, configure `ray.data.DataContext.get_current()` if you believe this to be transient."
)


def test_the_reason_is_the_worker_s_and_not_ray_s_advice() -> None:
    assert _reason(ValueError(f"Traceback ...\nOSError: disk full\n{ADVICE}")) == "OSError: disk full"
    assert _reason(KeyError(f"item\n{ADVICE}")).startswith("'item")
    assert _reason(ValueError("ray::map()\nMemoryError: no room")) == "MemoryError: no room"
    assert _reason(ValueError()) == "ValueError"
