import struct

from tensorboardX.proto.event_pb2 import Event

from derm_ray.training.tensorboard import tensorboard_events


def scalars(data: bytes) -> list[tuple[str, int, float]]:
    """Read TFRecords: length, checksum, payload, checksum."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        at += 12 + length + 4
    return found


def test_steps_and_epochs_are_scalars() -> None:
    history = [
        {"epoch": 1, "step": 1, "loss": 2.0, "elapsed_s": 0.1},
        {"epoch": 1, "step": 2, "loss": 1.0, "elapsed_s": 0.2},
        {"epoch": 1, "loss": 1.5, "cross/accuracy": 0.25},
        {"epoch": 2, "step": 1, "loss": 0.5, "elapsed_s": 0.3},
    ]
    assert scalars(tensorboard_events(history)) == [
        ("step/loss", 1, 2.0),
        ("step/loss", 2, 1.0),
        ("epoch/loss", 1, 1.5),
        ("epoch/cross/accuracy", 1, 0.25),
        ("step/loss", 3, 0.5),
    ]
