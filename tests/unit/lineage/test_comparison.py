"""Two runs held against each other: the first difference and its size."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raft_core.audit.comparison import compare
from raft_core.records.run import Run

MakeRun = Callable[..., Run]


@pytest.fixture
def elsewhere(make_run: MakeRun, tmp_path: Path) -> Callable[..., Run]:
    """A run of the same name in another workspace."""

    def make(**parts: object) -> Run:
        run = make_run("again", **parts)
        place = tmp_path / "other" / "runs" / "first"
        place.parent.mkdir(parents=True)
        run.path.rename(place)
        return Run(place, run.config)

    return make


def test_the_same_bytes(make_run: MakeRun, elsewhere: Callable[..., Run]) -> None:
    found = compare(make_run(), elsewhere())
    assert (found.commits, found.outputs, found.same_outputs) == (3, 2 + 2 * 8, 18)
    assert found.first is None
    assert found.differing == ()


def test_the_first_difference_and_its_size(make_run: MakeRun, elsewhere: Callable[..., Run]) -> None:
    found = compare(make_run(), elsewhere(bonus=0.25))
    assert not found.same
    assert found.first is not None
    assert (found.first.iteration, found.first.output) == (0, "tables/scored.parquet")
    assert found.first.size == (
        "column reward: 5 of 6 rows differ, by 0.25 at most",
        "column components: 5 of 6 rows differ",
    )
    assert "000/policy" in found.differing


def test_other_rows_and_missing_iterations(make_run: MakeRun, elsewhere: Callable[..., Run]) -> None:
    found = compare(make_run(), elsewhere(iterations=1, texts=[["one", "two"]]))
    assert found.missing == (1,)
    assert found.first is not None
    assert (found.first.output, found.first.size) == (
        "tables/prompts.parquet",
        ("3 rows in the first, 2 in the second",),
    )


def test_tokens_that_differ(make_run: MakeRun, elsewhere: Callable[..., Run]) -> None:
    found = compare(make_run(), elsewhere(key="other"))
    assert found.first is not None
    assert found.first.output == "tables/samples.parquet"
    assert found.first.size == ("column sample_id: 6 of 6 rows differ",)
