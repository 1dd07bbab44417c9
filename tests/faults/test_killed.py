"""Processes that are killed with SIGKILL."""

import signal
from collections.abc import Callable

import pandas as pd
import pytest

from tests.faults.conftest import PARTS, Score, assert_whole
from tests.faults.proxy import FaultProxy, Faults

pytestmark = [pytest.mark.ray, pytest.mark.slow]
Proxy = Callable[[Faults], FaultProxy]
IN_FLIGHT = 4
"""Shards that an actor holds: one that is scored, and those Ray Data has queued on it."""


def test_an_actor_that_is_killed_three_times(score: Score, proxy: Proxy, expected: pd.DataFrame) -> None:
    calm = proxy(Faults())
    scoring = score(calm)
    for share in (0.1, 0.5, 0.9):
        scoring.wait_for_parts(int(share * PARTS))
        (actor,) = scoring.actors()
        actor.send_signal(signal.SIGKILL)
        actor.wait()
    assert scoring.end() == 0, scoring.text()
    assert_whole(scoring, expected)
    puts = calm.puts("/part-")
    assert len(puts) == PARTS
    assert puts.total() - PARTS <= 3 * IN_FLIGHT


@pytest.mark.parametrize("kind", ["DecodingActor", "ScoringActor"])
def test_a_stage_that_is_killed(score: Score, expected: pd.DataFrame, kind: str) -> None:
    scoring = score(None, None, "--decoders", "2")
    scoring.wait_for_parts(PARTS // 5)
    actor = scoring.actors(kind)[0]
    actor.send_signal(signal.SIGKILL)
    actor.wait()
    assert scoring.end() == 0, scoring.text()
    assert_whole(scoring, expected)


def test_an_actor_that_is_killed_in_mid_write(score: Score, proxy: Proxy, expected: pd.DataFrame) -> None:
    holding = proxy(Faults(hold="/part-000020-"))
    scoring = score(holding)
    assert holding.faults.held.wait(300), scoring.text()
    (actor,) = scoring.actors()
    actor.send_signal(signal.SIGKILL)
    actor.wait()
    holding.faults.release.set()
    assert scoring.end() == 0, scoring.text()
    assert_whole(scoring, expected)


def test_an_actor_that_is_killed_while_it_writes_to_disk(score: Score, expected: pd.DataFrame, tmp_path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "scores"
    scoring = score(None, str(out))
    while not (seen := list(out.glob(".part-*.tmp"))):
        assert scoring.process.poll() is None, scoring.text()
    for actor in scoring.actors():
        actor.send_signal(signal.SIGKILL)
    assert scoring.end() == 0, scoring.text()
    assert_whole(scoring, expected)
    assert seen


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_driver_that_is_killed(score: Score, expected: pd.DataFrame, share: float) -> None:
    first = score()
    first.wait_for_parts(int(share * PARTS))
    first.kill_tree()
    there = first.parts()
    second = score()
    assert second.end() == 0, second.text()
    assert_whole(second, expected)
    again = second.parts()
    assert {name: again[name] for name in there} == there, "what was done is not done again"
    assert f"{len(there)} of {PARTS} parts existed already" in second.text()


def test_two_at_once(score: Score, expected: pd.DataFrame) -> None:
    both = [score(), score()]
    codes = [scoring.end() for scoring in both]
    assert sorted(codes) == [0, 2], [scoring.text() for scoring in both]
    refused = both[codes.index(2)]
    assert "is being written by another run (host" in refused.text()
    assert_whole(both[0], expected)
