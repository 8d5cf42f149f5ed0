"""What differs between two models, with every count known by hand."""

import shutil
from collections.abc import Callable

from raft_core.audit.difference import Overlap, difference
from raft_core.records.policy_ref import policy_ref
from raft_core.records.run import Run, record_event

MakeRun = Callable[..., Run]


def test_the_same_model(make_run: MakeRun) -> None:
    run = make_run()
    assert difference(policy_ref(run, 1), policy_ref(run, 1)).same
    other = make_run("second")
    assert not difference(policy_ref(run, 1), policy_ref(other, 1)).settings


def test_two_iterations_of_a_run(make_run: MakeRun) -> None:
    run = make_run()
    found = difference(policy_ref(run, 0), policy_ref(run, 1))
    assert not found.same
    assert found.ancestor == 0
    assert [(p.iteration, p.same) for p in found.passes] == [(0, True), (1, False)]
    assert found.passes[1].tables["samples"] == Overlap(0, 0, 6)
    assert found.trained_on == Overlap(3, 0, 0)


def test_prompts_samples_rewards_settings_and_code(make_run: MakeRun) -> None:
    a = make_run("first", iterations=1)
    b = make_run("second", iterations=1, texts=[["one", "two", "four"]], bonus=0.25, seed=7)
    record_event(a, "started", git_commit="a" * 40)
    record_event(b, "started", git_commit="b" * 40)
    found = difference(policy_ref(a, 0), policy_ref(b, 0))
    assert found.settings == {"seed": (0, 7)}
    assert found.git == ("a" * 40, "b" * 40)
    assert found.ancestor == -1
    (one,) = found.passes
    assert one.tables["prompts"] == Overlap(2, 1, 1)
    assert one.tables["samples"] == Overlap(4, 2, 2)
    assert one.tables["selected"] == Overlap(2, 1, 1)
    assert one.rewards is not None
    assert (one.rewards.both, one.rewards.differ, one.rewards.largest) == (4, 3, 0.25)
    assert one.rewards.mean_a == (0 + 0.5 + 1 + 2 + 2.5) / 5
    assert found.trained_on == Overlap(2, 1, 1)


def test_other_code_and_other_base(make_run: MakeRun) -> None:
    a, b = make_run("first"), make_run("second", base="e" * 64)
    assert difference(policy_ref(a, 0), policy_ref(b, 0)).ancestor is None


def test_tables_that_are_elsewhere_are_not_guessed(make_run: MakeRun) -> None:
    a, b = make_run("first", iterations=1), make_run("second", iterations=1, bonus=1.0)
    shutil.rmtree(b.folder(0) / "tables")
    found = difference(policy_ref(a, 0), policy_ref(b, 0))
    assert found.trained_on is None
    assert set(found.passes[0].tables.values()) == {None}
    assert found.passes[0].rewards is None
