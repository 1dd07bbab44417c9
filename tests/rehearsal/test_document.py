"""docs/start/cluster.md, typed from its first block to its last on machines of their own."""

import pytest

from tests.rehearsal.conftest import Rehearsal, wait_for
from tests.rehearsal.document import blocks

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_from_an_empty_cluster_to_a_scored_archive(cluster: Rehearsal) -> None:
    doctor = cluster.type_block("on the head: what is wrong")
    assert "error" not in doctor.lower(), doctor
    cluster.type_block("at your desk: pairs, split")
    trained = cluster.type_block("at your desk: train")
    assert "SUCCEEDED" in trained
    evaluated = cluster.type_block("at your desk: how good it is")
    assert "SUCCEEDED" in evaluated
    scored = cluster.type_block("at your desk: score")
    assert "480" in scored
    cluster.type_block("on the head: a caller's token")
    serving = cluster.block("on the head, for as long as it answers")
    with cluster.stay(cluster.head, serving.script, "serve") as process:
        try:
            wait_for(lambda: "listening on" in cluster.log("serve"), "the endpoint", 180)
            answer = cluster.type_block("at your desk: ask it")
        finally:
            process.terminate()
    assert "melanoma probability" in answer
    typed = {block.where for block in blocks() if any(block.where.startswith(where) for where in cluster.said)}
    stays = {
        block.where for block in blocks() if "for as long as" in block.where or block.where.startswith("everywhere")
    }
    assert typed | stays == {block.where for block in blocks()}
