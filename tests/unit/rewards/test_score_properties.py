"""Properties of scoring, over arbitrary samples, rewards and failures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_core.errors import RewardError
from raft_core.records.tables import SAMPLES, SCORED, to_table
from raft_core.rewards.score import NamedReward, score, score_gold
from raft_core.types import Prompt, Sample

PROMPTS = [Prompt.of(f"prompt {i}") for i in range(3)]
BY_ID = {p.prompt_id: p for p in PROMPTS}

finite = st.floats(-1e6, 1e6)
outcomes = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf, None, "x", "raise"]))
"""What one reward does with one sample: a score, a bad value, or it raises."""


@dataclass(frozen=True)
class Scripted:
    """Returns what the completion (its row) says; raises where it says "raise"."""

    script: Sequence[object]
    identity: str = "scripted"
    sources: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[object]:
        values = [self.script[int(c)] for c in completions]
        if "raise" in values:
            raise ValueError("scripted")
        return values


def table(num: int, quarantined: Sequence[bool]) -> pa.Table:
    rows = [
        Sample(
            f"s{i}",
            PROMPTS[i % 3].prompt_id,
            i,
            i,
            str(i),
            (1,),
            (2,),
            (0.0,),
            (0.0,),
            "stop",
            status="quarantined" if quarantined[i] else "ok",
            reason="before" if quarantined[i] else "",
        )
        for i in range(num)
    ]
    return to_table(SAMPLES, rows)


@st.composite
def cases(draw: st.DrawFn) -> tuple[pa.Table, list[NamedReward]]:
    num = draw(st.integers(0, 12))
    samples = table(num, draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    scripts = draw(st.lists(st.lists(outcomes, min_size=num, max_size=num), min_size=1, max_size=3))
    return samples, [NamedReward(f"r{i}", draw(finite), Scripted(script)) for i, script in enumerate(scripts)]


def good(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_every_row_comes_back_scored_or_with_its_reason(case: tuple[pa.Table, list[NamedReward]]) -> None:
    samples, rewards = case
    scored = score(samples, BY_ID, rewards, max_failed_share=1.0)
    assert scored.schema == SCORED
    assert scored["sample_id"].to_pylist() == samples["sample_id"].to_pylist()
    for i, (before, row) in enumerate(zip(samples.to_pylist(), scored.to_pylist(), strict=True)):
        outcome = [r.reward.script[i] for r in rewards]
        if before["status"] != "ok":
            assert (row["reward"], row["components"], row["status"], row["reason"]) == (
                None,
                [],
                "quarantined",
                "before",
            )
            continue
        assert row["components"] == [
            {"name": r.name, "score": v} for r, v in zip(rewards, outcome, strict=True) if good(v)
        ]
        if all(map(good, outcome)):
            total = 0.0
            for r, v in zip(rewards, outcome, strict=True):
                total += r.weight * v
            assert (row["reward"], row["status"], row["reason"]) == (total, "ok", "")
        else:
            assert (row["reward"], row["status"]) == (None, "quarantined")
            for r, v in zip(rewards, outcome, strict=True):
                assert (f"'{r.name}'" in row["reason"]) == (not good(v))


@settings(max_examples=100, deadline=None)
@given(cases(), st.floats(0, 1))
def test_it_stops_exactly_above_the_share(case: tuple[pa.Table, list[NamedReward]], share: float) -> None:
    samples, rewards = case
    rows = [i for i, status in enumerate(samples["status"].to_pylist()) if status == "ok"]
    failed = [i for i in rows if not all(good(r.reward.script[i]) for r in rewards)]
    if rows and len(failed) / len(rows) > share:
        with pytest.raises(RewardError):
            score(samples, BY_ID, rewards, max_failed_share=share)
    else:
        scored = score(samples, BY_ID, rewards, max_failed_share=share)
        assert scored["reward"].null_count == len(samples) - len(rows) + len(failed)


@settings(max_examples=60, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(case: tuple[pa.Table, list[NamedReward]], random: object) -> None:
    samples, rewards = case
    order = list(range(len(samples)))
    random.shuffle(order)
    indices = pa.array(order, pa.int64())
    once = score(samples, BY_ID, rewards, max_failed_share=1.0).take(indices)
    shuffled = score(samples.take(indices), BY_ID, rewards, max_failed_share=1.0)
    assert shuffled.to_pylist() == once.to_pylist()


@settings(max_examples=60, deadline=None)
@given(cases())
def test_gold_is_the_same_numbers_and_at_most_one_warning(case: tuple[pa.Table, list[NamedReward]]) -> None:
    samples, rewards = case
    warnings: list[str] = []
    gold = score_gold(samples, BY_ID, rewards, warn=warnings.append)
    assert gold.equals(score(samples, BY_ID, rewards, max_failed_share=1.0))
    lost = gold["reward"].null_count - samples["status"].to_pylist().count("quarantined")
    assert len(warnings) == (lost > 0)
