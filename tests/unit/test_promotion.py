"""The decision on a promotion: every figure by hand, and each gate closing on its own."""

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest

from raft_core.promotion.decision import Verdict, decide
from raft_core.promotion.findings import Finding
from raft_core.promotion.pairs import Evidence
from raft_core.promotion.rules import PromotionGates, PromotionRules
from raft_core.records.tables import EVALUATION, PERPLEXITY, SAFETY, to_table

FEW = {"min_paired_prompts": 2, "min_slice_prompts": 2}
"""So that figures can be had by hand; a policy file asks for 64 at least."""


def evidence(
    rewards: Sequence[float | None],
    *,
    gold: float | None = 0.0,
    texts: Sequence[str] | None = None,
    kl: float = 0.0,
    cut: Sequence[int] = (),
    groups: Sequence[str] | None = None,
    nll: float = 1.0,
    safe: Sequence[bool] | None = None,
    answers: int = 1,
) -> Evidence:
    rows = [
        {
            "prompt_id": f"p{i}",
            "group": groups[i] if groups else "g",
            "prompt": "",
            "sample_id": f"s{i}",
            "completion": texts[i] if texts else f"a{i} b{i} c{i}",
            "completion_token_ids": [1, 2],
            "finish_reason": "length" if i in cut else "stop",
            "sampling_logprobs": [-1.0, -1.0],
            "base_logprobs": [-1.0 - kl / 2, -1.0 - kl / 2],
            "reward": reward,
            "gold_reward": gold,
            "components": [],
        }
        for i, reward in enumerate(rewards)
    ]
    likelihoods = [{"text": f"t{i}", "logprobs": [-nll, -nll]} for i in range(4)]
    judged = [
        {
            "case": f"case{i % 2}",
            "prompt_id": f"p{i // answers}",
            "prompt": "",
            "sample_id": f"s{i}",
            "completion": "",
            "finish_reason": "stop",
            "passed": ok,
            "failed": "",
            "components": [],
        }
        for i, ok in enumerate(safe or ())
    ]
    safety = to_table(SAFETY, judged) if safe is not None else None
    return Evidence(to_table(EVALUATION, rows), to_table(PERPLEXITY, likelihoods), safety)


def verdict(candidate: Evidence, reference: Evidence, **gates: Any) -> Verdict:
    chosen = PromotionGates(**{k: v for k, v in gates.items() if k not in FEW})
    few = {**FEW, **{k: v for k, v in gates.items() if k in FEW}}
    return decide(candidate, reference, PromotionRules(gates=chosen.model_copy(update=few)))


def finding(candidate: Evidence, reference: Evidence, gate: str, **gates: Any) -> Finding:
    (found,) = [f for f in verdict(candidate, reference, **gates).findings if f.gate == gate]
    return found


def told(found: Finding) -> tuple[float | None, ...]:
    return found.value, found.low, found.high


SAME = evidence([1.0, 2.0, 3.0, 4.0])


def test_equal_differences_give_exact_intervals() -> None:
    better = evidence([1.5, 2.5, 3.5, 4.5], gold=0.25, kl=0.5, nll=0.9)
    result = verdict(better, SAME)
    assert result.passed
    got = {f.gate: (f.value, f.low, f.high) for f in result.findings}
    rise = math.exp(-0.1) - 1  # (0.9 − 1.0) nats a token
    expected = {
        "paired_prompts": (4, None, None),
        "scored_share": (1.0, None, None),
        "reward": (0.5, 0.5, 0.5),
        "gold_reward": (0.25, 0.25, 0.25),
        "perplexity": (rise, rise, rise),
        "distinct_1": (1.0, 1.0, 1.0),
        "distinct_2": (1.0, 1.0, 1.0),
        "kl": (0.5, 0.5, 0.5),
        "truncation": (0.0, 0.0, 0.0),
        "slice:g": (0.5, 0.5, 0.5),
    }
    assert got.keys() == expected.keys()
    for gate, figures in expected.items():
        assert got[gate] == pytest.approx(figures), gate
    reward = next(f for f in result.findings if f.gate == "reward")
    assert (reward.candidate, reward.reference) == (3.0, 2.5)
    assert "all 10 gates pass on 4 prompts" in result.reason


def test_a_model_is_not_better_than_itself() -> None:
    result = verdict(SAME, SAME)
    assert [f.gate for f in result.findings if not f.passed] == ["reward"]
    assert re.search(r"reward .*\b0, 0 to 0\b.*gates\.min_reward_gain", result.reason)
    assert verdict(SAME, SAME, min_reward_gain=None).passed


@pytest.mark.parametrize(
    ("candidate", "gates", "closed"),
    [
        (evidence([1.5, 2.5, 3.5, 4.5], gold=-0.2), {}, "gold_reward"),
        (evidence([1.5, 2.5, 3.5, 4.5], nll=1.1), {}, "perplexity"),
        (evidence([1.5, 2.5, 3.5, 4.5], kl=2.5), {}, "kl"),
        (evidence([1.5, 2.5, 3.5, 4.5], cut=[0, 1, 2, 3]), {}, "truncation"),
        (evidence([1.5, 2.5, 3.5, 4.5], safe=[True] * 60 + [False] * 2), {}, "safety"),
        (evidence([1.5, 2.5, 3.5, 4.5]), {"min_paired_prompts": 5}, "paired_prompts"),
        (evidence([1.5, 2.5, 3.5, None]), {}, "scored_share"),
        (evidence([1.2, 2.2, 3.2, 4.2]), {"min_reward_gain": 0.3}, "reward"),
    ],
)
def test_each_gate_closes_on_its_own(candidate: Evidence, gates: dict[str, Any], closed: str) -> None:
    result = verdict(candidate, SAME, **gates)
    assert [f.gate for f in result.findings if not f.passed] == [closed]
    assert not result.passed


def test_diversity_is_a_factor_with_a_jackknife_interval() -> None:
    candidate = evidence([2.0, 3.0], texts=["a b", "a c"])
    reference = evidence([1.0, 2.0], texts=["a b", "c d"])
    # 3 of 4 words against 4 of 4; without either prompt both are 2 of 2, so the jackknife sees no spread
    found = finding(candidate, reference, "distinct_1", min_distinct_1=0.8)
    assert told(found) == pytest.approx((0.75, 0.75, 0.75))
    assert not found.passed
    spread = evidence([1.0, 2.0, 3.0], texts=["a a", "b c", "d e"])
    whole = evidence([0.0, 1.0, 2.0], texts=["a f", "b c", "d e"])
    # 5/6; left out: 4/4, 3/4, 3/4 -> mean 5/6, squared deviations (1/6)² + 2·(1/12)² = 1/24, error √(2/3 · 1/24) = 1/6
    reach = 4.302653 / 6  # Student's t of two degrees of freedom
    assert told(finding(spread, whole, "distinct_1")) == (
        5 / 6,
        pytest.approx(5 / 6 - reach),
        pytest.approx(5 / 6 + reach),
    )


def test_the_worst_group_decides() -> None:
    groups = ["a", "a", "b", "b", "c"]
    candidate = evidence([2.0, 2.0, 0.5, 0.5, -9.0], groups=groups)
    reference = evidence([1.0, 1.0, 1.0, 1.0, 1.0], groups=groups)
    result = verdict(candidate, reference, max_slice_loss=0.3)
    slices = [f for f in result.findings if f.gate.startswith("slice:")]
    assert [(f.gate, f.passed) for f in slices] == [("slice:b", False), ("slice:a", True), ("slice:c", True)]
    assert re.search(r"\b1\b.*gates\.min_slice_prompts is 2", slices[2].note)
    assert verdict(candidate, reference, max_slice_loss=0.6, min_reward_gain=None).findings[-2].passed


def test_the_share_of_safe_answers_is_held_by_its_lower_bound() -> None:
    unsafe = evidence([1.0], safe=[False] * 5 + [True] * 5)
    found = finding(evidence([2.0, 3.0], safe=[True] * 10), unsafe, "safety", min_safe_share=0.7)
    assert told(found) == pytest.approx((1.0, 0.7224672, 1.0))  # 10 / (10 + 1.96²)
    assert found.passed
    found = finding(evidence([2.0, 3.0], safe=[True, True, True, False]), SAME, "safety", min_safe_share=0.7)
    assert not found.passed
    assert re.search(r"^4 prompts .*0\.510.*min_safe_share", found.note)
    found = finding(evidence([2.0, 3.0], safe=[True, True, True, False]), SAME, "safety", min_safe_share=0.5)
    assert (found.passed, found.note) == (False, "failed: 1 in case1")
    assert (found.candidate, found.reference) == (0.75, None)


def test_more_answers_to_a_prompt_are_no_more_prompts() -> None:
    ten = evidence([2.0, 3.0], safe=[True] * 80, answers=8)
    found = finding(ten, ten, "safety")
    assert told(found) == pytest.approx((1.0, 0.7224672, 1.0))
    assert (found.passed, found.reference) == (False, 1.0)
    half = finding(evidence([2.0, 3.0], safe=[True, False] * 10, answers=2), ten, "safety", min_safe_share=0.2)
    assert told(half) == pytest.approx((0.5, 0.2365931, 0.7634069))  # Wilson of 5 of 10


def test_a_loss_of_safety_is_held_against_the_other_side_prompt_for_prompt() -> None:
    candidate = evidence([2.0, 3.0], safe=[True, False, True, False], answers=2)
    reference = evidence([1.0, 2.0], safe=[True, True, True, False], answers=2)
    gates = {"min_safe_share": None, "min_reward_gain": None}
    assert all(f.gate != "safety_gain" for f in verdict(candidate, reference, **gates).findings)
    lost = finding(candidate, reference, "safety_gain", max_safety_loss=0.1, **gates)
    assert (lost.value, lost.low, lost.passed) == (-0.25, pytest.approx(-0.25 - 12.7062 * 0.25), False)
    assert (lost.candidate, lost.reference) == (0.5, 0.75)
    assert finding(candidate, candidate, "safety_gain", max_safety_loss=0.1, **gates).passed
    alone = finding(candidate, SAME, "safety_gain", max_safety_loss=0.1, **gates)
    assert (alone.passed, alone.note.startswith("not measured")) == (False, True)


@pytest.mark.parametrize("missing", ["gold", "texts"])
def test_what_cannot_be_measured_does_not_pass(missing: str) -> None:
    better = evidence([1.5, 2.5, 3.5, 4.5], gold=None if missing == "gold" else 0.0)
    if missing == "texts":
        better = Evidence(better.evaluation, to_table(PERPLEXITY, []))
    result = verdict(better, SAME)
    (closed,) = [f for f in result.findings if not f.passed]
    assert closed.gate == ("gold_reward" if missing == "gold" else "perplexity")
    assert closed.note.startswith("not measured")


def test_weights_that_diverged_do_not_pass() -> None:
    broken = evidence([1.5, 2.5, 3.5, 4.5], kl=math.inf, nll=math.inf)
    closed = [f.gate for f in verdict(broken, SAME).findings if not f.passed]
    assert closed == ["kl", "perplexity"]


def test_prompts_are_paired_by_their_identity_not_by_their_place() -> None:
    better = evidence([1.5, 2.5, 3.5, 4.5])
    turned = Evidence(better.evaluation.take([3, 1, 0, 2]), better.perplexity.take([2, 0, 1, 3]))
    assert verdict(turned, SAME) == verdict(better, SAME)


def test_every_gate_can_be_switched_off() -> None:
    names = [
        name
        for name, field in PromotionGates.model_fields.items()
        if field.default is None or "None" in str(field.annotation)
    ]
    bad = evidence([-9.0, -9.0, -9.0, -9.0], gold=-9.0, kl=99.0, nll=9.0, cut=[0, 1, 2, 3], safe=[False] * 9)
    assert not verdict(bad, SAME).passed
    assert verdict(bad, SAME, **dict.fromkeys(names)).passed


def test_more_of_the_same_evidence_narrows_the_interval() -> None:
    def width(times: int) -> float:
        found = finding(evidence([2.0, 1.0, 4.0, 5.0] * times), evidence([1.0, 2.0, 3.0, 4.0] * times), "reward")
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width(16) < width(4) < width(1)


def test_a_group_of_few_prompts_has_a_rough_interval() -> None:
    for num, note in ((63, "rough interval: only 63 prompts"), (64, "")):
        ours, theirs = (evidence([float(i % 7) + more for i in range(num)]) for more in (0.5, 0.0))
        assert finding(ours, theirs, "slice:g").note == note
