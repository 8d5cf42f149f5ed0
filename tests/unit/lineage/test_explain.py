"""Why a sample was selected or dropped: figures and rules known by hand."""

from collections.abc import Callable

import pytest

from raft_core.errors import InputError
from raft_core.records.run import Run
from raft_core.types import content_id
from tasks.audit.explain import explain

MakeRun = Callable[..., Run]


def name(iteration: int, text: str, k: int) -> str:
    return content_id("sample", "key", iteration, text, k)


def test_a_selected_sample_and_its_rival(make_run: MakeRun) -> None:
    found = explain(make_run(), 1, name(1, "three", 1))
    assert (found.fate, found.rank, found.reward) == ("selected", 1, 2.5)
    assert found.because == "rank 1 of 2 valid samples of its prompt; best_of_k keeps the first"
    assert (found.prompt["text"], found.sample["completion"]) == ("three", "three says 1 in 1")
    assert (dict(found.components), dict(found.weights)) == ({"lexicon": 2.5}, {"lexicon": 1.0})
    assert [(r.rank, r.k, r.reward, r.fate) for r in found.rivals] == [(1, 1, 2.5, "selected"), (2, 0, 2.0, "dropped")]


def test_a_dropped_sample(make_run: MakeRun) -> None:
    found = explain(make_run(), 0, name(0, "one", 0))
    assert (found.fate, found.rank) == ("dropped", 2)


def test_a_quarantined_sample(make_run: MakeRun) -> None:
    found = explain(make_run(), 0, name(0, "two", 1))
    assert (found.fate, found.rank, found.reward) == ("quarantined", None, None)
    assert found.because == "quarantined at scored by scoring: the reward raised"
    assert [check["check"] for check in found.failed_checks] == ["scoring"]
    assert found.rivals[0].rank == 1
    assert found.rivals[0].k == 0


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"type": "top_fraction"}, "top_fraction keeps the best 0.5 of all samples, whose lowest reward is 0.5"),
        ({"type": "best_then_top", "fraction": 0.5}, "the best 0.5 of the prompts' first, whose lowest is 0.5"),
        ({"type": "all_best"}, "the prompt's highest reward, 2.5, if it is above 0.0"),
        ({"type": "threshold", "threshold": 2.0}, "threshold keeps a reward of at least 2.0"),
    ],
)
def test_every_rule_is_told(make_run: MakeRun, rule: dict[str, object], told: str) -> None:
    assert told in explain(make_run(selection=rule), 1, name(1, "three", 1)).because


def test_a_prompt_with_too_few_valid_samples(make_run: MakeRun) -> None:
    run = make_run(validation={"min_valid_per_prompt": 2})
    assert "1 are valid, and validation.min_valid_per_prompt is 2" in explain(run, 0, name(0, "two", 0)).because


def test_a_sample_of_another_iteration(make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="has no sample"):
        explain(make_run(), 0, name(1, "one", 0))
