"""The policy that iteration N of a run made: its name, its digests, and what the ledger writes about it."""

import pytest

from raft_core.errors import InputError
from raft_core.records.policy_ref import policy_label, policy_name, policy_ref
from raft_core.records.run import BASE, Run, read_chain


def test_a_committed_policy_knows_its_name_and_digests(synthetic_run: Run) -> None:
    for commit in read_chain(synthetic_run):
        ref = policy_ref(synthetic_run, commit.iteration)
        assert (ref.digest, ref.identity) == (commit.digest, commit.content["policy"]["identity"])
        assert ref.facts == {
            "commit": commit.digest,
            "policy": ref.identity,
            "run": synthetic_run.name,
            "iteration": commit.iteration,
        }
        assert str(ref) == policy_name(synthetic_run.name, commit.iteration)
        assert ref.label == policy_label(commit.iteration)


def test_the_base_has_a_name_of_its_own() -> None:
    assert (policy_name("one", BASE), policy_name("one", 3)) == ("one@base", "one@3")
    assert (policy_label(BASE), policy_label(3)) == ("base", "iteration 3")


@pytest.mark.parametrize("iteration", [3, 99])
def test_an_iteration_without_a_commit_is_refused(synthetic_run: Run, iteration: int) -> None:
    with pytest.raises(InputError) as caught:
        policy_ref(synthetic_run, iteration)
    assert synthetic_run.name in caught.value.what
    assert str(iteration) in caught.value.what
    assert "raft show" in str(caught.value.hint)
