"""The report from tables small enough to work out by hand."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pytest

from raft_core.config.run import RaftConfig
from raft_core.errors import StepError
from raft_core.evaluation import scorecard as scorecards
from raft_core.files.artifacts import canonical_json
from raft_core.metrics.base import Batch, Figure, Measured, Metric
from raft_core.metrics.ranking import batch_report
from raft_core.metrics.registry import own
from raft_core.records.tables import EVALUATION, QUARANTINE, SCORED, SELECTED, to_table

Config = Callable[..., RaftConfig]


def names(*, needs_batch: bool) -> set[str]:
    """The figures that the metrics declare, those of the training batch or the others."""
    figures = [f for metric in own() if metric.needs_batch is needs_batch for f in metric.figures]
    return {f"{f.name}{end}" for f in figures for end in (("", "_low", "_high") if f.interval else ("",))}


def scorecard(table: pa.Table, perplexity: float | None, config: RaftConfig, **more: Any) -> dict[str, Any]:
    """The report of ``table``, where the fixed text has this perplexity."""
    texts = [] if perplexity is None else [[-math.log(perplexity)]]
    return scorecards.scorecard(Measured(table, config, text_logprobs=texts, **more))


def evaluation_row(prompt: str, **facts: Any) -> dict[str, Any]:
    row = {
        "prompt_id": prompt,
        "group": "",
        "prompt": prompt,
        "sample_id": f"s-{prompt}",
        "completion": "fine film",
        "completion_token_ids": [1, 2],
        "finish_reason": "stop",
        "sampling_logprobs": [-1.0, -1.0],
        "base_logprobs": [-1.0, -2.0],
        "reward": 0.5,
        "gold_reward": None,
        "components": [],
    }
    return {**row, **facts}


def evaluation(*rows: dict[str, Any]) -> pa.Table:
    return to_table(EVALUATION, rows)


def batch(*groups: list[float | None], kept: tuple[str, ...] = (), quarantine: tuple[str, ...] = ()) -> Batch:
    """Prompt p0, p1, … with these rewards; None: quarantined when scored. Samples are called p0/0, p0/1, …"""
    scored = [
        {
            "sample_id": f"p{x}/{k}",
            "prompt_id": f"p{x}",
            "k": k,
            "source": "policy",
            "reward": reward,
            "components": [],
            "status": "ok" if reward is not None else "quarantined",
            "reason": "",
        }
        for x, group in enumerate(groups)
        for k, reward in enumerate(group)
    ]
    selected = [
        {
            "sample_id": name,
            "prompt_id": name.split("/")[0],
            "source": "policy",
            "reward": 0.0,
            "rank": 0,
            "weight": 1.0,
            "prompt": "",
            "completion": "",
            "prompt_token_ids": [],
            "completion_token_ids": [],
            "sampling_logprobs": [],
            "finish_reason": "stop",
        }
        for name in kept
    ]
    caught = [
        {"sample_id": name, "prompt_id": name.split("/")[0], "stage": "samples", "check": "c", "reason": "r"}
        for name in quarantine
    ]
    return Batch(to_table(SCORED, scored), to_table(SELECTED, selected), to_table(QUARANTINE, caught))


def test_the_base_has_the_names_of_the_contract_and_no_others(checked_config: Config) -> None:
    report = scorecard(evaluation(evaluation_row("a")), 3.0, checked_config(), iteration=-1)
    assert report.keys() == {
        "iteration",
        *names(needs_batch=False),
        "slices",
        "rewards",
        "gold_rewards",
        "rough_intervals",
    }
    assert report["iteration"] == -1
    assert report["perplexity"] == pytest.approx(3.0)
    assert report["kl_bound"] == 0


def test_an_iteration_has_the_batch_and_training_names_as_well(checked_config: Config) -> None:
    report = scorecard(
        evaluation(evaluation_row("a")),
        None,
        checked_config(),
        iteration=0,
        batch=batch([1.0, 0.0], kept=("p0/0",)),
        losses=[2.0, 1.0],
    )
    assert report.keys() == {
        "iteration",
        *names(needs_batch=False),
        *names(needs_batch=True),
        "slices",
        "rewards",
        "gold_rewards",
        "rough_intervals",
    }
    assert report["train_loss"] == 1.5
    assert report["paired_gain"] is None
    assert report["perplexity"] is None


def test_held_out_figures(checked_config: Config) -> None:
    table = evaluation(
        evaluation_row("a", reward=1.0, gold_reward=2.0, group="films", finish_reason="length"),
        evaluation_row("b", reward=0.0, gold_reward=4.0, group="books", completion="a bad bad plot"),
        evaluation_row("c", reward=0.5, gold_reward=3.0, group="books"),
        evaluation_row("d", reward=None, gold_reward=None, group="games"),
    )
    report = scorecard(table, None, checked_config(), iteration=1)
    assert report["num_prompts"] == 4
    assert report["reward"] == pytest.approx(0.5)
    assert report["reward_low"] <= 0.5 <= report["reward_high"]
    assert report["gold_reward"] == pytest.approx(3.0)
    assert report["truncation"] == 0.25
    assert report["kl"] == pytest.approx(1.0)
    assert report["kl_bound"] == pytest.approx(2 * math.log(8) - (1 - 1 / 64))
    assert report["token_entropy"] == pytest.approx(1.0)
    assert report["response_perplexity"] == pytest.approx(math.exp(1.5))
    assert report["mean_length"] == pytest.approx((2 + 4 + 2 + 2) / 4)
    assert report["distinct_1"] == pytest.approx(5 / 10)
    assert report["slices"] == {"books": 0.25, "films": 1.0}
    assert report["slice_gap"] == pytest.approx(0.75)


def test_prompts_without_a_group_belong_to_no_slice(checked_config: Config) -> None:
    report = scorecard(evaluation(evaluation_row("a"), evaluation_row("b")), None, checked_config(), iteration=0)
    assert report["slices"] == {}
    assert report["slice_gap"] is None


def test_components_are_told_apart_by_the_configuration(checked_config: Config) -> None:
    config = checked_config(
        scoring={
            "rewards": [{"type": "lexicon"}, {"type": "function", "name": "length", "function": "a:b"}],
            "gold": [{"type": "linear", "model": "m", "name": "gold"}],
        }
    )
    table = evaluation(
        evaluation_row("a", components=[{"name": "lexicon", "score": 1.0}, {"name": "gold", "score": 5.0}]),
        evaluation_row("b", components=[{"name": "lexicon", "score": 0.0}, {"name": "gold", "score": math.nan}]),
    )
    report = scorecard(table, None, config, iteration=0)
    assert report["rewards"] == {"lexicon": 0.5, "length": None}
    assert report["gold_rewards"] == {"gold": 5.0}


def test_batch_figures(checked_config: Config) -> None:
    config = checked_config(sampling={"samples_per_prompt": 4})
    facts = batch_report(
        batch([1.0, 3.0, 3.0, None], [0.0, 0.0], [2.0, -2.0, 9.0], kept=("p0/1", "p2/0"), quarantine=("p2/2", "p0/3")),
        config,
    )
    rewards = [1.0, 3.0, 3.0, 0.0, 0.0, 2.0, -2.0]
    assert facts["candidates_reward"] == pytest.approx(sum(rewards) / 7)
    assert facts["best_of_k_reward"] == pytest.approx((3 + 0 + 2) / 3)
    assert facts["headroom"] == pytest.approx(5 / 3 - 1)
    assert facts["headroom_bound"] == pytest.approx(5 * math.sqrt(math.log(4) / 2))
    assert facts["acceptance"] == pytest.approx(2 / 7)
    assert facts["ties"] == pytest.approx(2 / 3)
    assert facts["all_best"] == pytest.approx(1 / 3)
    assert facts["none_pass"] is None
    assert facts["prompt_coverage"] == pytest.approx(2 / 3)
    assert facts["num_selected"] == 2
    assert facts["num_quarantined"] == 2


def test_a_known_range_of_the_reward_gives_the_bound(checked_config: Config) -> None:
    config = checked_config(sampling={"samples_per_prompt": 4}, validation={"reward_min": -1.0, "reward_max": 1.0})
    assert batch_report(batch([0.1, 0.2]), config)["headroom_bound"] == pytest.approx(2 * math.sqrt(math.log(4) / 2))


@pytest.mark.parametrize("selection", [{"type": "all_best"}, {"type": "threshold", "threshold": 1.0}])
def test_success_follows_the_selectors_bar(checked_config: Config, selection: dict[str, Any]) -> None:
    facts = batch_report(batch([1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]), checked_config(selection=selection))
    assert facts["none_pass"] == pytest.approx(1 / 3)
    assert facts["all_best"] == pytest.approx(1 / 3)


def test_a_batch_without_a_valid_candidate_has_no_figures(checked_config: Config) -> None:
    facts = batch_report(batch([None, None]), checked_config())
    assert facts.keys() == {f.name for metric in own() if metric.type == "ranking" for f in metric.figures}
    assert facts["candidates_reward"] is None
    assert facts["acceptance"] is None
    assert facts["num_quarantined"] == 2


def test_paired_gain_compares_the_same_prompts(checked_config: Config) -> None:
    now = evaluation(*(evaluation_row(p, reward=r) for p, r in (("a", 1.0), ("b", 0.75), ("c", 0.25))))
    then = evaluation(*(evaluation_row(p, reward=r) for p, r in (("c", 0.0), ("b", 0.5), ("a", 0.75))))
    report = scorecard(now, None, checked_config(), iteration=3, batch=batch([1.0]), then=then)
    assert report["paired_gain"] == pytest.approx(0.25)
    assert (report["paired_gain_low"], report["paired_gain_high"]) == (0.25, 0.25)


def test_a_diverged_policy_still_gives_a_report_that_can_be_written(checked_config: Config) -> None:
    broken = evaluation_row("a", sampling_logprobs=[math.nan, -1.0], base_logprobs=[-math.inf, -1.0], reward=math.nan)
    report = scorecard(
        evaluation(broken), None, checked_config(), iteration=0, batch=batch([1.0, 0.0]), losses=[1.0, math.nan]
    )
    assert report["reward"] is None
    assert report["kl"] > 1e300
    assert report["train_loss"] > 1e300
    assert b"NaN" not in canonical_json(report)


def test_the_same_tables_give_the_same_bytes(checked_config: Config) -> None:
    table = evaluation(*(evaluation_row(str(i), reward=i / 7) for i in range(20)))
    first, second = (canonical_json(scorecard(table, 2.0, checked_config(), iteration=-1)) for _ in range(2))
    assert first == second


def test_an_empty_evaluation_has_no_figures(checked_config: Config) -> None:
    report = scorecard(evaluation(), None, checked_config(), iteration=-1)
    assert report["num_prompts"] == 0
    assert report["reward"] is None
    assert report["truncation"] is None
    canonical_json(report)


def test_intervals_of_few_prompts_are_called_rough(checked_config: Config) -> None:
    for num, rough in ((63, ["reward"]), (64, [])):
        rows = evaluation(*(evaluation_row(f"p{i}", reward=float(i), gold_reward=None) for i in range(num)))
        assert scorecard(rows, None, checked_config(), iteration=-1)["rough_intervals"] == rough


class Mine(Metric):
    """A metric of another package."""

    type: Literal["mine"] = "mine"
    answer: ClassVar[Any] = {"mine": 1}
    figures: ClassVar[tuple[Figure, ...]] = (Figure("mine", "mine"),)

    def compute(self, measured: Measured) -> Any:
        """What a test set."""
        return self.answer


def with_mine(config: RaftConfig) -> RaftConfig:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"metrics": (Mine(),)})})


def test_a_metric_of_another_package_is_reported_like_ours(
    checked_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, table = with_mine(checked_config()), evaluation(evaluation_row("a"))
    for answer, reported in (({"mine": 2, "by_word": {"a": 1}}, 2), ({"mine": math.nan}, None), ({"mine": None}, None)):
        monkeypatch.setattr(Mine, "answer", answer)
        report = scorecard(table, None, config, iteration=-1)
        assert report["mine"] == reported
        assert report.get("by_word") == answer.get("by_word")
        canonical_json(report)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "TypeError"),
        ({}, "no figure; it declares mine"),
        ({"mine": 1, "other": 2}, "mine, other; it declares mine"),
        ({"mine": "1"}, "'1' for mine"),
        ({"mine": 10**400}, "OverflowError"),
        ({"mine": np.array([1.0, 2.0])}, "ValueError"),
        ({"mine": 1, "by_word": {"a": math.nan}}, "ValueError"),
        ({"mine": 1, "by_word": {"a": np.float32(1)}}, "TypeError"),
        ({"mine": 1, "slices": {}}, "slices, which another metric reports already"),
    ],
)
def test_a_fault_of_a_metric_names_it(
    checked_config: Config, monkeypatch: pytest.MonkeyPatch, answer: Any, why: str
) -> None:
    monkeypatch.setattr(Mine, "answer", answer)
    with pytest.raises(StepError) as caught:
        scorecard(evaluation(evaluation_row("a")), None, with_mine(checked_config()), iteration=-1)
    assert "mine" in caught.value.what
    assert why in str(caught.value.got)
    assert f"{__name__}.Mine" in str(caught.value.hint)
