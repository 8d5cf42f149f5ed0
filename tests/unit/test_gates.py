"""Decisions on reports written by hand."""

import math
from typing import Any

import pytest

from raft_core.config.gates import GatesConfig
from raft_core.gates import Breach, best_iteration, decide, within_budget

GATES = GatesConfig()
"""Perplexity +6.6 %, KL 2, distinct-1 × .85, distinct-2 × .9, truncation +.15, length × 2, head-room × .5, window 3."""

BASE: dict[str, Any] = {
    "iteration": -1,
    "reward": 0.0,
    "gold_reward": 0.1,
    "perplexity": 60.0,
    "distinct_1": 0.4,
    "distinct_2": 0.8,
    "truncation": 0.2,
    "mean_length": 10.0,
    "kl": 0.0,
}


def report(iteration: int = 0, **facts: Any) -> dict[str, Any]:
    calm = {
        "iteration": iteration,
        "reward": 0.1 * (iteration + 1),
        "headroom": 1.0,
        "paired_gain": None,
        "paired_gain_low": None,
        "paired_gain_high": None,
        "kl": 0.5,
    }
    return {**BASE, **calm, **facts}


@pytest.mark.parametrize(
    ("metric", "inside", "outside", "limit"),
    [
        ("kl", 2.0, 2.01, 2.0),
        ("perplexity", 63.95, 63.97, 63.96),
        ("distinct_1", 0.341, 0.339, 0.34),
        ("distinct_2", 0.721, 0.719, 0.72),
        ("truncation", 0.349, 0.351, 0.35),
        ("mean_length", 19.9, 20.1, 20.0),
        ("mean_length", 5.1, 4.9, 5.0),
        ("headroom", 0.51, 0.49, 0.5),
    ],
)
def test_each_limit(metric: str, inside: float, outside: float, limit: float) -> None:
    first = report()
    assert within_budget(report(1, **{metric: inside}), BASE, first, GATES) == []
    (breach,) = within_budget(report(1, **{metric: outside}), BASE, first, GATES)
    assert (breach.metric, breach.got) == (metric, outside)
    assert breach.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("switch", "metric", "value"),
    [
        ("max_kl", "kl", 99.0),
        ("max_perplexity_rise", "perplexity", 9e9),
        ("min_distinct_1", "distinct_1", 0.0),
        ("min_distinct_2", "distinct_2", 0.0),
        ("max_truncation_rise", "truncation", 1.0),
        ("max_length_factor", "mean_length", 9e9),
        ("min_headroom", "headroom", 0.0),
    ],
)
def test_none_switches_a_gate_off(switch: str, metric: str, value: float) -> None:
    off = GATES.model_copy(update={switch: None})
    assert within_budget(report(1, **{metric: value}), BASE, report(), off) == []
    assert within_budget(report(1, **{metric: value}), BASE, report(), GATES) != []


def assert_facts(sentence: str, *facts: str) -> None:
    """Every fact stands in the sentence, in this order."""
    rest = sentence
    for fact in facts:
        assert fact in rest, (fact, sentence)
        rest = rest.partition(fact)[2]


@pytest.mark.parametrize(
    ("limit", "value", "outside"),
    [
        ({"figure": "gold_reward", "min": 0.05}, 0.06, False),
        ({"figure": "gold_reward", "min": 0.05}, 0.04, True),
        ({"figure": "gold_reward", "min": 0.9, "relative": True}, 0.091, False),
        ({"figure": "gold_reward", "min": 0.9, "relative": True}, 0.089, True),
        ({"figure": "gold_reward", "max": 1.5, "relative": True}, 0.151, True),
        ({"figure": "gold_reward", "max": 1.5, "relative": True}, None, False),
    ],
)
def test_a_limit_of_ones_own_on_any_figure(limit: dict[str, Any], value: float | None, outside: bool) -> None:
    own = GatesConfig.model_validate({"limits": (limit,)})
    breaches = within_budget(report(1, gold_reward=value), BASE, report(), own)
    assert [breach.metric for breach in breaches] == ["gold_reward"] * outside
    decision = decide(BASE, [report(0, gold_reward=value)], own, 3)
    assert decision.go_on is not outside
    assert ("gates.limits" in decision.reason) is outside
    assert ("not measured: gold_reward" in decision.reason) is (value is None)


@pytest.mark.parametrize(
    ("start", "value", "outside"), [(-2.0, -2.1, False), (-2.0, -2.3, True), (-2.0, -1.7, True), (0.0, 5.0, False)]
)
def test_a_relative_limit_of_a_negative_figure_and_of_zero(start: float, value: float, outside: bool) -> None:
    """0.9 to 1.1 is 10 % of its size in both directions; 0 has no 10 %."""
    own = GatesConfig.model_validate({"limits": ({"figure": "gold_reward", "min": 0.9, "max": 1.1, "relative": True},)})
    breaches = within_budget(report(1, gold_reward=value), {**BASE, "gold_reward": start}, report(), own)
    assert [breach.metric for breach in breaches] == ["gold_reward"] * outside


def test_a_limit_of_ones_own_on_the_headroom_rules_the_iteration_out() -> None:
    """Unlike ``min_headroom``, which only stops."""
    reports = [report(0, headroom=1.0), report(1, headroom=0.1, reward=9.0)]
    assert best_iteration(BASE, reports, GATES) == 1
    own = GatesConfig.model_validate({"limits": ({"figure": "headroom", "min": 0.5},)})
    assert best_iteration(BASE, reports, own) == 0


@pytest.mark.parametrize("limit", [{"figure": "kl"}, {"figure": "kl", "min": 2.0, "max": 1.0}])
def test_a_limit_that_limits_nothing_or_everything_is_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="kl"):
        GatesConfig.model_validate({"limits": (limit,)})


def test_several_breaches_are_all_told() -> None:
    breaches = within_budget(report(kl=3.0, distinct_2=0.1), BASE, report(), GATES)
    assert [b.metric for b in breaches] == ["kl", "distinct_2"]
    assert_facts(str(breaches[0]), "kl 3 ", "above", "2 ", "gates.max_kl")
    assert_facts(str(breaches[1]), "distinct_2 0.1 ", "below", "0.72 ", "0.8 × 0.9", "gates.min_distinct_2: 0.9")


def test_a_value_that_is_no_number_is_outside() -> None:
    assert within_budget(report(kl=math.nan), BASE, report(), GATES)[0].metric == "kl"


def test_empty_completions_of_the_base_set_no_length_limit() -> None:
    assert within_budget(report(mean_length=5.0), {**BASE, "mean_length": 0.0}, report(), GATES) == []


def test_only_the_base_goes_on() -> None:
    decision = decide(BASE, [], GATES, 5)
    assert (decision.go_on, decision.kind, decision.best, decision.breaches) == (True, "advance", -1, ())
    assert decision.reason.endswith("reward 0")


def test_inside_the_budget_goes_on() -> None:
    decision = decide(BASE, [report(0), report(1)], GATES, 5)
    assert decision.go_on
    assert (decision.kind, decision.best) == ("advance", 1)
    assert decision.reason.startswith("iteration 1 ")
    assert decision.reason.endswith(
        "(reward 0 -> 0.2, gold_reward 0.1 -> 0.1, kl 0 -> 0.5, perplexity 60 -> 60, distinct_2 0.8 -> 0.8)"
    )


def test_a_breach_stops_and_returns_the_best_iteration_inside() -> None:
    decision = decide(BASE, [report(0), report(1), report(2, kl=2.5, reward=9.0)], GATES, 5)
    assert not decision.go_on
    assert (decision.kind, decision.best) == ("stopped", 1)
    assert decision.breaches == (Breach("kl", 2.5, 2.0, "gates.max_kl"),)
    assert_facts(decision.reason, "iteration 2: kl 2.5 ", "(gates.max_kl); iteration 1 ", "(reward 0 -> 0.2, ")


@pytest.mark.parametrize(
    "over", [{"kl": 2.5}, {"paired_gain": 0.0, "paired_gain_low": -1.0, "paired_gain_high": 1.0}, {}]
)
def test_a_run_that_ends_quotes_the_figures_of_the_best(over: dict[str, Any]) -> None:
    decision = decide(BASE, [report(0), report(1, reward=0.9, kl=1.25), report(2, reward=0.3, **over)], GATES, 3)
    assert (decision.go_on, decision.best) == (False, 1)
    assert_facts(decision.reason, "iteration 1 ", "(reward 0 -> 0.9, gold_reward 0.1 -> 0.1, kl 0 -> 1.25")
    assert "0.3" not in decision.reason


REMEDY = {
    "kl": "finetuning.learning_rate",
    "perplexity": "finetuning.learning_rate",
    "distinct_1": "sampling.temperature",
    "truncation": "sampling.max_new_tokens",
    "mean_length": "reward",
    "headroom": "sampling.samples_per_prompt",
}


@pytest.mark.parametrize(
    ("metric", "value", "facts"),
    [
        ("kl", 2.5, ("kl 2.5 ", "above", "2 ", "gates.max_kl")),
        ("perplexity", 70.0, ("perplexity 70 ", "above", "63.96 ", "60 × 1.066", "gates.max_perplexity_rise: 0.066")),
        ("distinct_1", 0.2, ("distinct_1 0.2 ", "below", "0.34 ", "0.4 × 0.85", "gates.min_distinct_1: 0.85")),
        ("truncation", 0.5, ("truncation 0.5 ", "above", "0.35 ", "0.2 + 0.15", "gates.max_truncation_rise: 0.15")),
        ("mean_length", 3, ("mean_length 3 ", "below", "5 ", "10 × or ÷ 2", "gates.max_length_factor: 2")),
        ("headroom", 0.4, ("headroom 0.4 ", "below", "0.5 ", "iteration 0: 1 × 0.5", "gates.min_headroom: 0.5")),
    ],
)
def test_a_gate_that_stops_names_figure_limit_key_and_what_to_try(
    metric: str, value: float, facts: tuple[str, ...]
) -> None:
    decision = decide(BASE, [report(0), report(1, **{metric: value})], GATES, 5)
    assert decision.kind == "stopped"
    assert_facts(decision.reason, "iteration 1: ", *facts)
    key = decision.breaches[0].origin.rpartition("gates.")[2].partition(":")[0]
    assert decision.reason.endswith(f" gates.{key}")
    assert REMEDY[metric] in decision.reason


def test_the_base_is_kept_if_nothing_else_is_inside() -> None:
    decision = decide(BASE, [report(0, perplexity=99.0)], GATES, 5)
    assert (decision.kind, decision.best) == ("stopped", -1)
    assert_facts(decision.reason, "base", "(iteration 0: reward 0 -> 0.1, ")


def test_the_base_is_kept_if_nothing_is_better() -> None:
    assert best_iteration(BASE, [report(0, reward=-0.1), report(1, reward=0.0)], GATES) == -1


def test_the_earlier_of_equals_is_kept() -> None:
    assert best_iteration(BASE, [report(0, reward=0.3), report(1, reward=0.3)], GATES) == 0


def test_missing_rewards_are_never_the_best() -> None:
    assert best_iteration(BASE, [report(0, reward=None), report(1)], GATES) == 1
    assert best_iteration({**BASE, "reward": None}, [report(0, reward=-5.0)], GATES) == 0


def test_too_little_headroom_stops_but_takes_no_iteration_out() -> None:
    decision = decide(BASE, [report(0), report(1, headroom=0.1)], GATES, 5)
    assert (decision.kind, decision.best) == ("stopped", 1)
    assert decision.breaches[0].metric == "headroom"


def test_the_first_iteration_is_its_own_measure_of_headroom() -> None:
    assert decide(BASE, [report(0, headroom=0.0)], GATES, 5).kind == "advance"


def test_converged_without_a_sure_gain() -> None:
    last = report(3, paired_gain=0.01, paired_gain_low=-0.02, paired_gain_high=0.04)
    decision = decide(BASE, [report(0), report(1), report(2), last], GATES, 9)
    assert (decision.go_on, decision.kind) == (False, "converged")
    assert_facts(decision.reason, " 3 iterations", "0.01, between -0.02 and 0.04", "gates.convergence_window")


@pytest.mark.parametrize(("low", "kind"), [(0.001, "advance"), (0.0, "converged"), (None, "advance")])
def test_converged_at_exactly_no_gain(low: float | None, kind: str) -> None:
    assert decide(BASE, [report(0, paired_gain=0.1, paired_gain_low=low)], GATES, 9).kind == kind


def test_convergence_can_be_switched_off() -> None:
    off = GATES.model_copy(update={"convergence_window": None})
    assert decide(BASE, [report(0, paired_gain_low=-1.0)], off, 9).kind == "advance"


def test_completed_at_the_planned_number() -> None:
    decision = decide(BASE, [report(0), report(1)], GATES, 2)
    assert (decision.go_on, decision.kind, decision.best) == (False, "completed", 1)
    assert_facts(decision.reason, "all 2 iterations", "; iteration 1 ", "reward 0 -> 0.2")


def test_a_breach_counts_more_than_the_end() -> None:
    assert decide(BASE, [report(0), report(1, kl=3.0)], GATES, 2).kind == "stopped"


def test_missing_values_breach_nothing_but_are_told() -> None:
    decision = decide({**BASE, "perplexity": None}, [report(0, perplexity=None, distinct_2=None)], GATES, 5)
    assert decision.kind == "advance"
    assert decision.reason.endswith("; not measured: perplexity, distinct_2)")
    assert "perplexity none" not in decision.reason


def test_what_is_switched_off_is_not_missed() -> None:
    off = GATES.model_copy(update={"max_perplexity_rise": None})
    assert "not measured" not in decide(BASE, [report(0, perplexity=None)], off, 5).reason
