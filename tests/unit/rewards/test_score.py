"""Scoring: weighted sums by hand, and everything that a reward can do wrong."""

import decimal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raft_core.errors import IntegrityError, RewardError
from raft_core.records.tables import SCORED, read_table, write_table
from raft_core.rewards import score as scoring
from raft_core.rewards.score import BATCH_SAMPLES, SCORING_COLUMNS, NamedReward, score, score_gold
from raft_core.types import Prompt

SamplesOf = Callable[[Sequence[str]], tuple[pa.Table, dict[str, Prompt]]]


@dataclass(frozen=True)
class Stub:
    """A reward made of a function of the completions alone."""

    function: Callable[[list[str]], Any]
    identity: str = "stub"
    sources: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Any:
        assert len(prompts) == len(completions)
        return self.function(list(completions))


def named(function: Callable[[list[str]], Any], name: str = "length", weight: float = 1.0) -> NamedReward:
    return NamedReward(name, weight, Stub(function))


def lengths(completions: list[str]) -> list[int]:
    return [len(c) for c in completions]


def rows(table: pa.Table) -> list[tuple[float | None, str, str]]:
    return [(r["reward"], r["status"], r["reason"]) for r in table.to_pylist()]


# -- the sum ---------------------------------------------------------------------------------------


def test_weighted_sum_keeps_every_component(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["ab", "abcd"])
    rewards = [named(lengths, "length", 0.5), named(lambda cs: [1.0, -1.0], "sign", 3.0)]
    scored = score(samples, prompts, rewards, max_failed_share=0.0)
    assert scored.schema == SCORED
    assert scored["reward"].to_pylist() == [0.5 * 2 + 3.0, 0.5 * 4 - 3.0]
    assert scored["components"].to_pylist() == [
        [{"name": "length", "score": 2.0}, {"name": "sign", "score": 1.0}],
        [{"name": "length", "score": 4.0}, {"name": "sign", "score": -1.0}],
    ]
    assert scored["sample_id"].to_pylist() == ["s000000", "s000001"]
    assert scored["source"].to_pylist() == ["policy", "policy"]


def test_quarantined_samples_pass_through_unseen(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a", "bb", "ccc"])
    samples = samples.set_column(
        samples.schema.get_field_index("status"), "status", pa.array(["ok", "quarantined", "ok"])
    )
    samples = samples.set_column(samples.schema.get_field_index("reason"), "reason", pa.array(["", "empty", ""]))
    seen: list[str] = []

    def watch(completions: list[str]) -> list[int]:
        seen.extend(completions)
        return lengths(completions)

    scored = score(samples, prompts, [named(watch)], max_failed_share=0.0)
    assert seen == ["a", "ccc"]
    assert rows(scored) == [(1.0, "ok", ""), (None, "quarantined", "empty"), (3.0, "ok", "")]
    assert scored["components"].to_pylist()[1] == []


def test_only_the_needed_columns_are_needed(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a"])
    narrow = samples.select(SCORING_COLUMNS)
    assert score(narrow, prompts, [named(lengths)], max_failed_share=0.0)["reward"].to_pylist() == [1.0]


def test_no_samples(samples_of: SamplesOf, tmp_path: Any) -> None:
    samples, prompts = samples_of([])
    scored = score(samples, prompts, [named(lengths)], max_failed_share=0.0)
    write_table(tmp_path / "scored.parquet", scored, SCORED)
    assert len(read_table(tmp_path / "scored.parquet", SCORED)) == 0


def test_batches_are_bounded_and_progress_counts_all(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["x" * (i % 7) for i in range(2 * BATCH_SAMPLES + 5)])
    sizes: list[int] = []
    done: list[int] = []

    def watch(completions: list[str]) -> list[int]:
        sizes.append(len(completions))
        return lengths(completions)

    scored = score(samples, prompts, [named(watch)], max_failed_share=0.0, progress=done.append)
    assert sizes == done == [BATCH_SAMPLES, BATCH_SAMPLES, 5]
    assert scored["reward"].to_pylist() == [i % 7 for i in range(len(samples))]


def test_a_table_in_many_chunks(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["x" * i for i in range(10)])
    chunked = pa.concat_tables([samples.slice(i, 3) for i in range(0, 10, 3)])
    bad = named(lambda cs: [float("nan") if len(c) == 4 else len(c) for c in cs])
    scored = score(chunked, prompts, [bad], max_failed_share=0.1)
    assert scored["reward"].to_pylist() == [0, 1, 2, 3, None, 5, 6, 7, 8, 9]


def test_a_sample_without_its_prompt(samples_of: SamplesOf) -> None:
    samples, _ = samples_of(["a"])
    with pytest.raises(IntegrityError, match="prompt_id"):
        score(samples, {}, [named(lengths)], max_failed_share=1.0)


# -- what may come back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "returns",
    [
        tuple,
        iter,
        lambda values: (v for v in values),
        np.array,
        lambda values: np.array(values, dtype=np.float32),
        torch.tensor,
        lambda values: torch.tensor(values, dtype=torch.bfloat16, requires_grad=True),
        lambda values: [np.float32(v) for v in values],
        lambda values: [torch.tensor(v) for v in values],
        lambda values: [decimal.Decimal(v) for v in values],
        lambda values: [bool(v) for v in values],
    ],
    ids=[
        "tuple",
        "iterator",
        "generator",
        "numpy",
        "float32",
        "torch",
        "bfloat16",
        "scalars",
        "tensors",
        "decimal",
        "bool",
    ],
)
def test_any_one_dimensional_numbers(samples_of: SamplesOf, returns: Callable[[list[float]], Any]) -> None:
    samples, prompts = samples_of(["a", "b", "c"])
    scored = score(samples, prompts, [named(lambda cs: returns([1.0] * len(cs)))], max_failed_share=0.0)
    assert scored["reward"].to_pylist() == [1.0, 1.0, 1.0]


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __float__(self) -> float:
        raise RuntimeError("no float")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "reward 'length' returned nan"),
        (float("-inf"), "reward 'length' returned -inf"),
        (np.float32("inf"), "reward 'length' returned inf"),
        (10**400, "not a number"),
        ("0.5", "returned '0.5' (str), not a number"),
        (b"1", "not a number"),
        (None, "returned None (NoneType), not a number"),
        ([1.0], "returned [1.0] (list), not a number"),
        (1j, "not a number"),
        (Hostile(), "an object whose repr fails (Hostile), not a number"),
    ],
)
def test_one_bad_value_loses_one_sample(samples_of: SamplesOf, value: object, reason: str) -> None:
    samples, prompts = samples_of(["a", "bad", "cc"])
    calls: list[int] = []

    def reward(completions: list[str]) -> list[object]:
        calls.append(len(completions))
        return [value if c == "bad" else len(c) for c in completions]

    scored = rows(score(samples, prompts, [named(reward)], max_failed_share=0.5))
    assert calls == [3]
    assert scored[0] == (1.0, "ok", "")
    assert scored[2] == (2.0, "ok", "")
    assert scored[1][:2] == (None, "quarantined")
    assert reason in scored[1][2]


def test_a_sum_that_overflows(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a", "b"])
    big = named(lambda cs: [1e308 if c == "a" else 1.0 for c in cs], weight=10.0)
    assert rows(score(samples, prompts, [big], max_failed_share=0.5)) == [
        (None, "quarantined", "the weighted sum of the rewards is not finite"),
        (10.0, "ok", ""),
    ]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ([1.0] * 5, "reward 'length' returned 5 numbers for 1 sample"),
        ([], "reward 'length' returned 0 numbers for 1 sample"),
        (iter(lambda: 1.0, None), "2 or more numbers for 1 sample"),
        (np.ones((1, 2)), "returned [1.0, 1.0] (list), not a number"),
        (np.float64(3.0), "returned 3.0 (float)"),
        (None, "returned None (NoneType)"),
        ("ab", "must return a list"),
        ({"a": 1.0}, "must return a list"),
        (3, "batched: false"),
    ],
    ids=["too many", "none", "endless", "matrix", "scalar", "None", "string", "dict", "number"],
)
def test_what_does_not_match_the_samples(samples_of: SamplesOf, returned: object, reason: str) -> None:
    samples, prompts = samples_of(["a", "b"])
    with pytest.raises(RewardError) as told:
        score(samples, prompts, [named(lambda cs: returned)], max_failed_share=0.9)
    assert reason in str(told.value)


def test_a_wrong_count_is_told_in_one_sentence(samples_of: SamplesOf) -> None:
    reward = named(lambda cs: [0.0] * 5)
    whole = scoring.as_scores(reward.reward([], []), 4, reward.name)
    assert isinstance(whole, scoring.Failure)
    assert whole.reason.startswith("reward 'length' returned 5 numbers for 4 samples")


def test_a_reward_that_drops_a_sample_loses_that_one(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a", "", "cc"])
    scored = rows(score(samples, prompts, [named(lambda cs: [len(c) for c in cs if c])], max_failed_share=0.5))
    assert scored[0] == (1.0, "ok", "")
    assert scored[1][:2] == (None, "quarantined")
    assert "reward 'length' returned 0 numbers for 1 sample" in scored[1][2]
    assert scored[2] == (2.0, "ok", "")


# -- what may be raised ----------------------------------------------------------------------------


def raises_on(bad: str, error: BaseException) -> Callable[[list[str]], list[int]]:
    def reward(completions: list[str]) -> list[int]:
        if bad in completions:
            raise error
        return lengths(completions)

    return reward


def test_only_the_guilty_sample_is_lost(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a", "bad", "cc"])
    rewards = [named(raises_on("bad", ValueError("my\nown words"))), named(lengths, "second")]
    scored = score(samples, prompts, rewards, max_failed_share=0.5)
    assert rows(scored) == [
        (2.0, "ok", ""),
        (None, "quarantined", "reward 'length' raised ValueError: my own words"),
        (4.0, "ok", ""),
    ]
    assert scored["components"].to_pylist()[1] == [{"name": "second", "score": 3.0}]


def test_both_reasons_are_told(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a", "bad"])
    rewards = [named(raises_on("bad", KeyError("x")), "one"), named(raises_on("bad", OSError()), "two")]
    scored = rows(score(samples, prompts, rewards, max_failed_share=0.5))
    assert scored[1][2] == "reward 'one' raised KeyError: 'x'; reward 'two' raised OSError"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("x" * 1000), "reward 'length' raised ValueError: " + "x" * 165),
        (ValueError("lone \ud800 surrogate"), "reward 'length' raised ValueError: lone ? surrogate"),
        (Unspeakable(), "reward 'length' raised Unspeakable"),
        (MemoryError(), "reward 'length' raised MemoryError"),
        (RecursionError("deep"), "reward 'length' raised RecursionError: deep"),
    ],
    ids=["long", "surrogate", "unspeakable", "memory", "recursion"],
)
def test_the_reason_can_always_be_stored(samples_of: SamplesOf, error: Exception, reason: str) -> None:
    samples, prompts = samples_of(["a", "bad"])
    scored = score(samples, prompts, [named(raises_on("bad", error))], max_failed_share=0.5)
    assert rows(scored)[1] == (None, "quarantined", reason)


def test_a_stop_passes_through(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a", "bad"])
    with pytest.raises(KeyboardInterrupt):
        score(samples, prompts, [named(raises_on("bad", KeyboardInterrupt()))], max_failed_share=1.0)


@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_reward_that_exits_stops_the_run_in_words(samples_of: SamplesOf, code: int | None) -> None:
    """As an exit it would end the command, with the code that the reward gave: 0, perhaps."""
    samples, prompts = samples_of(["a", "bad"])
    with pytest.raises(RewardError, match=r"reward 'length' .*process"):
        score(samples, prompts, [named(raises_on("bad", SystemExit(code)))], max_failed_share=1.0)


# -- too many --------------------------------------------------------------------------------------


def test_thirty_percent_stop_a_run_that_allows_five(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of([f"{i % 10}" for i in range(100)])

    def reward(completions: list[str]) -> list[float]:
        return [1 / (0 if int(c) < 3 else 1) for c in completions]

    with pytest.raises(RewardError) as told:
        score(samples, prompts, [named(reward)], max_failed_share=0.05)
    text = str(told.value)
    assert "30 of 100 (30.0%)" in text
    assert "reward 'length' raised ZeroDivisionError: division by zero" in text
    assert "at most 5.0% of 100 samples (scoring.max_failed_share)" in text
    assert "try: correct the reward" in text
    allowed = score(samples, prompts, [named(reward)], max_failed_share=0.3)
    assert allowed["status"].to_pylist().count("quarantined") == 30


@pytest.mark.parametrize("share", [0.07, 0.29, 0.57])
def test_the_share_itself_is_allowed(samples_of: SamplesOf, share: float) -> None:
    samples, prompts = samples_of([str(i) for i in range(100)])
    most = round(100 * share)
    score(samples, prompts, [named(lambda cs: [None if int(c) < most else 0 for c in cs])], max_failed_share=share)
    with pytest.raises(RewardError):
        score(samples, prompts, [named(lambda cs: [None if int(c) <= most else 0 for c in cs])], max_failed_share=share)


def test_a_hopeless_reward_stops_early(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a"] * (20 * BATCH_SAMPLES))
    calls: list[int] = []

    def reward(completions: list[str]) -> list[float]:
        calls.append(len(completions))
        raise ValueError("never")

    with pytest.raises(RewardError, match=f"{2 * BATCH_SAMPLES} of {2 * BATCH_SAMPLES}"):
        score(samples, prompts, [named(reward)], max_failed_share=0.05)
    assert len(calls) == 2 * (1 + BATCH_SAMPLES)


# -- gold ------------------------------------------------------------------------------------------


def test_gold_never_stops_and_warns_once(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a", "bad", "bad"])
    warnings: list[str] = []
    gold = [named(raises_on("bad", ValueError("no")), "gold")]
    scored = score_gold(samples, prompts, gold, warn=warnings.append)
    assert scored["reward"].to_pylist() == [1.0, None, None]
    (warning,) = warnings
    assert "2 of 3 samples" in warning
    assert "reward 'gold' raised ValueError: no" in warning
    assert score_gold(samples, prompts, [named(lengths)], warn=warnings.append)["reward"].to_pylist() == [1, 3, 3]
    assert len(warnings) == 1


def test_no_gold_rewards(samples_of: SamplesOf) -> None:
    samples, prompts = samples_of(["a"])
    scored = score_gold(samples, prompts, [], warn=pytest.fail)
    assert rows(scored) == [(None, "ok", "")]
