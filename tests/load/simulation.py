"""The queue that the endpoint would be if it cost nothing: one server that answers all who wait in one batch."""

from collections.abc import Mapping

import numpy as np


def simulate(arrivals_s: list[float], service_s: Mapping[int, list[float]], largest: int, seed: int) -> list[float]:
    """Return the latency of every request, in seconds.

    Args:
        arrivals_s: ascending.
        service_s: batch size -> measured times of such a batch; between two sizes, the smaller's and the larger's
            times are mixed linearly.
        largest: batch.
        seed: of the draws among measured times.
    """
    generator, latencies_s, free_s, first = np.random.default_rng(seed), [], 0.0, 0
    while first < len(arrivals_s):
        start_s = max(free_s, arrivals_s[first])
        end = first
        while end < len(arrivals_s) and arrivals_s[end] <= start_s and end - first < largest:
            end += 1
        free_s = start_s + _draw(end - first, service_s, generator)
        latencies_s += [free_s - arrival_s for arrival_s in arrivals_s[first:end]]
        first = end
    return latencies_s


def _draw(size: int, service_s: Mapping[int, list[float]], generator: np.random.Generator) -> float:
    below = max(known for known in service_s if known <= size)
    above = min(known for known in service_s if known >= size)
    share = (size - below) / (above - below) if above > below else 0.0
    return float((1 - share) * generator.choice(service_s[below]) + share * generator.choice(service_s[above]))
