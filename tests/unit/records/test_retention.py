"""Which weights may go: every rule by itself, and what no rule may ever let go."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_core.errors import ConfigError, IntegrityError, RunBusyError
from raft_core.records.collected import block_gc, collected, no_live_run, write_tombstone
from raft_core.records.retention import DAY_S, Retention, RunFacts, load_retention, verdicts

NOTHING = Retention(keep_runs=0, keep_days=0, keep_best=False)
OLD = RunFacts("old", age_s=100 * DAY_S, finished=True, best=1, policies={0: "c0", 1: "c1", 2: "c2"})


def kept(runs: list[RunFacts], rules: Retention, named: dict[str, str] | None = None) -> set[tuple[str, int]]:
    return {(v.run, v.iteration) for v in verdicts(runs, named or {}, rules) if v.kept}


def test_what_nothing_names_may_go() -> None:
    assert kept([OLD], NOTHING) == set()


def test_what_is_registered_stays_and_says_why() -> None:
    (found,) = [v for v in verdicts([OLD], {"c2": "registered as m version 1"}, NOTHING) if v.kept]
    assert (found.iteration, found.kept) == (2, "registered as m version 1")


def test_the_best_of_a_run_stays() -> None:
    assert kept([OLD], NOTHING.model_copy(update={"keep_best": True})) == {("old", 1)}


def test_an_unfinished_run_keeps_everything() -> None:
    running = RunFacts("running", age_s=100 * DAY_S, finished=False, best=None, policies={0: "r0"})
    assert kept([OLD, running], NOTHING) == {("running", 0)}


def test_the_last_runs_stay() -> None:
    newer = RunFacts("newer", age_s=99 * DAY_S, finished=True, best=0, policies={0: "n0"})
    assert kept([OLD, newer], NOTHING.model_copy(update={"keep_runs": 1})) == {("newer", 0)}


@pytest.mark.parametrize(("days", "stays"), [(99.9, False), (100, True), (101, True)])
def test_age_counts_in_days(days: float, stays: bool) -> None:
    assert bool(kept([OLD], NOTHING.model_copy(update={"keep_days": days}))) == stays


@given(st.lists(st.tuples(st.floats(0, 1e8), st.booleans(), st.integers(1, 4)), max_size=6), st.integers(0, 4))
def test_looser_rules_never_keep_less(drawn: list[tuple[float, bool, int]], keep_runs: int) -> None:
    runs = [
        RunFacts(f"r{i}", age, finished, 0, {n: f"{i}.{n}" for n in range(policies)})
        for i, (age, finished, policies) in enumerate(drawn)
    ]
    strict = Retention(keep_runs=keep_runs, keep_days=1, keep_best=False)
    loose = Retention(keep_runs=keep_runs + 1, keep_days=2, keep_best=True)
    assert kept(runs, strict) <= kept(runs, loose)


def test_rules_are_read_and_faults_are_told(tmp_path: Path) -> None:
    path = tmp_path / "retention.yaml"
    path.write_text("keep_runs: 7\n")
    assert load_retention(path, ["keep_days=1.5"]) == Retention(keep_runs=7, keep_days=1.5)
    path.write_text("keep_rums: 7\n")
    with pytest.raises(ConfigError, match="keep_rums"):
        load_retention(path)


def test_a_tombstone_names_what_went(tmp_path: Path) -> None:
    assert collected(tmp_path) == {}
    write_tombstone(tmp_path, {"policy": "a" * 64}, {"policy": "b.dir"})
    assert collected(tmp_path) == {"policy": "a" * 64}
    (tmp_path / "collected.json").write_text("{}")
    with pytest.raises(IntegrityError, match="tombstone"):
        collected(tmp_path)


def test_a_collection_and_a_live_run_exclude_each_other(tmp_path: Path) -> None:
    live = block_gc(tmp_path)
    with pytest.raises(RunBusyError), no_live_run(tmp_path):
        pass
    live.close()
    with no_live_run(tmp_path):
        pass
