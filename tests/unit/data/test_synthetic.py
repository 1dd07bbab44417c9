from pathlib import Path

from derm_ray.data.manifest import Manifest
from derm_ray.data.summary import summarize
from derm_ray.data.synthetic import LEVELS, synthesize
from derm_ray.data.validation import validate
from derm_ray.domain import PAPER15
from derm_ray.storage import read_bytes


def test_pairs_are_valid_balanced_and_repeatable(tmp_path: Path) -> None:
    first, second = (synthesize(str(tmp_path / name), 30, PAPER15, seed=3) for name in "ab")
    validate(first, PAPER15, complete=(None,))
    assert {sum(row.values()) for row in summarize(first).diagnoses.values()} == {2}
    for one, other in zip(first.pairs(), second.pairs(), strict=True):
        assert read_bytes(str(one.clinical_uri)) == read_bytes(str(other.clinical_uri))


def test_neither_factor_alone_tells_the_class(pairs: Manifest) -> None:
    """The color (clinical) and the pattern (dermoscopy) are each shared by several classes; together by one."""
    classes = [PAPER15.class_names.index(str(d)) for d in pairs.column("diagnosis")]
    factors = {divmod(index, LEVELS): index for index in classes}
    assert len(factors) == 15
    assert len({color for color, _ in factors}) == len({pattern for _, pattern in factors}) == LEVELS


def test_summary_counts_and_reads(pairs: Manifest) -> None:
    summary = summarize(pairs)
    assert summary.pairs == summary.lesions == 480
    assert summary.modalities == {"both": 480}
    text = summary.text()
    assert "no patient ids" in text
    assert "melanoma" in text
