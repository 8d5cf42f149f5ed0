"""The scorecard: one flat report an iteration, deterministic, the same names in report.json and MLflow.

A value that does not exist is None, never NaN. Rewards are those of one sample a held-out prompt;
intervals are over prompts (``statistics.mean_interval``), and ``rough_intervals`` names those of fewer prompts than
they hold from. What is meant by each name:

reward, gold_reward        mean weighted sum of the rewards that select, and of those that only watch
perplexity                 of a fixed real text under the policy (the paper's protocol)
response_perplexity        of the completions under the initial policy
distinct_*, unique_*, msttr_100, mean_length    see ``diversity`` (words)
token_entropy, kl, kl_bound                     see ``divergence`` (nats)
truncation                 share of completions cut by max_new_tokens
slices, slice_gap          mean reward of each prompt group; the largest minus the smallest

and of the training batch, sampled by the policy *before* this iteration's training:

candidates_reward          mean over all valid candidates
best_of_k_reward           mean over prompts of the best candidate
headroom                   best_of_k_reward − candidates_reward: what ranking has to gain
headroom_bound             B·sqrt(log K / 2) with B the reward's range: E[max] − E[r] is never more
acceptance                 selected / valid candidates
ties                       share of prompts whose best reward is shared by several candidates
all_best, none_pass        share of prompts whose candidates are all best; of which none passes
prompt_coverage            share of the drawn prompts that reached the selected set
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_core.config.run import RaftConfig
from raft_core.evaluation import divergence, diversity
from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.evaluation.statistics import NOTHING, Interval, mean_interval, paired_gain
from raft_core.rewards.base import reward_name
from raft_core.selection.base import passes

HELD_OUT_METRICS = (
    "num_prompts",
    "reward",
    "reward_low",
    "reward_high",
    "gold_reward",
    "gold_reward_low",
    "gold_reward_high",
    "perplexity",
    "response_perplexity",
    "distinct_1",
    "distinct_2",
    "unique_1",
    "unique_2",
    "msttr_100",
    "mean_length",
    "token_entropy",
    "truncation",
    "kl",
    "kl_bound",
    "slice_gap",
)
BATCH_METRICS = (
    "candidates_reward",
    "best_of_k_reward",
    "headroom",
    "headroom_bound",
    "acceptance",
    "ties",
    "all_best",
    "none_pass",
    "prompt_coverage",
    "num_selected",
    "num_quarantined",
)
TRAINING_METRICS = ("train_loss", "paired_gain", "paired_gain_low", "paired_gain_high")


@dataclass(frozen=True, slots=True)
class Batch:
    """The training batch of an iteration: its SCORED, SELECTED and (if any) QUARANTINE tables."""

    scored: pa.Table
    selected: pa.Table
    quarantine: pa.Table | None = None


def scorecard(
    evaluation: pa.Table,
    perplexity: float | None,
    config: RaftConfig,
    *,
    iteration: int,
    batch: Batch | None = None,
    losses: Sequence[float] = (),
    then: pa.Table | None = None,
) -> dict[str, Any]:
    """The whole report. The base (iteration −1) has no ``batch``, and then none of the batch's names.

    ``evaluation``: the EVALUATION table; ``perplexity``: of the fixed text under the policy (see
    ``divergence.perplexity``), None without such a text; ``losses``: one an optimiser step;
    ``then``: the EVALUATION table of ``gates.convergence_window`` iterations ago, where there is one.
    """
    report = {"iteration": iteration, **held_out_report(evaluation, perplexity, config, iteration=iteration)}
    if batch is None:
        return report
    gain = gain_since(evaluation, then, config) if then is not None else NOTHING
    loss = sum(losses) / len(losses) if losses else None
    return {
        **report,
        **batch_report(batch, config),
        "train_loss": divergence.WORST if loss is not None and not math.isfinite(loss) else loss,
        "paired_gain": gain.mean,
        "paired_gain_low": gain.low,
        "paired_gain_high": gain.high,
    }


def held_out_report(
    evaluation: pa.Table, perplexity: float | None, config: RaftConfig, *, iteration: int
) -> dict[str, Any]:
    """HELD_OUT_METRICS, ``rough_intervals``, and the nested ``slices``, ``rewards`` and ``gold_rewards``."""
    completions = evaluation["completion"].to_pylist()
    sampling_logprobs = evaluation["sampling_logprobs"].to_pylist()
    base_logprobs = evaluation["base_logprobs"].to_pylist()
    reward, gold = (_interval(evaluation[name], config) for name in ("reward", "gold_reward"))
    slices = _slices(evaluation)
    return {
        "num_prompts": evaluation.num_rows,
        "reward": reward.mean,
        "reward_low": reward.low,
        "reward_high": reward.high,
        "gold_reward": gold.mean,
        "gold_reward_low": gold.low,
        "gold_reward_high": gold.high,
        "perplexity": perplexity,
        "response_perplexity": divergence.perplexity(base_logprobs),
        "distinct_1": diversity.distinct(completions, 1),
        "distinct_2": diversity.distinct(completions, 2),
        "unique_1": diversity.unique(completions, 1),
        "unique_2": diversity.unique(completions, 2),
        "msttr_100": diversity.msttr(completions),
        "mean_length": diversity.mean_length(completions),
        "token_entropy": divergence.token_entropy(sampling_logprobs),
        "truncation": _share(pc.equal(evaluation["finish_reason"], "length")),
        "kl": divergence.kl_to_base(sampling_logprobs, base_logprobs),
        "kl_bound": divergence.kl_bound(config.sampling.samples_per_prompt, iteration + 1),
        "slice_gap": max(slices.values()) - min(slices.values()) if len(slices) > 1 else None,
        "rough_intervals": _rough(evaluation, ("reward", "gold_reward")),
        "slices": slices,
        "rewards": _components(evaluation, [reward_name(r) for r in config.scoring.rewards]),
        "gold_rewards": _components(evaluation, [reward_name(r) for r in config.scoring.gold]),
    }


def gain_since(now: pa.Table, then: pa.Table, config: RaftConfig) -> Interval:
    """Mean gain in reward of the same held-out prompts between two EVALUATION tables."""
    rewards_now, rewards_then = (
        dict(zip(table["prompt_id"].to_pylist(), table["reward"].to_pylist(), strict=True)) for table in (now, then)
    )
    return paired_gain(rewards_now, rewards_then, confidence=config.evaluation.confidence)


def batch_report(batch: Batch, config: RaftConfig) -> dict[str, Any]:
    """BATCH_METRICS. A candidate is valid if it was scored and no validation suite quarantined it.

    ``none_pass`` and ``all_best`` follow the selector's bar for success (``all_best``,
    ``threshold``); without a bar ``none_pass`` is None and ``all_best`` means that all are equal.
    """
    scored = batch.scored
    valid_N = pc.and_(pc.equal(scored["status"], "ok"), pc.is_valid(scored["reward"]))
    if batch.quarantine is not None and batch.quarantine.num_rows:
        caught = pc.unique(batch.quarantine["sample_id"])
        valid_N = pc.and_(valid_N, pc.invert(pc.is_in(scored["sample_id"], value_set=caught)))
    valid = scored.filter(valid_N)
    num_drawn = pc.count_distinct(scored["prompt_id"]).as_py()
    num_covered = pc.count_distinct(batch.selected["prompt_id"]).as_py()
    return {
        **_ranking_facts(valid, config),
        "acceptance": batch.selected.num_rows / valid.num_rows if valid.num_rows else None,
        "prompt_coverage": num_covered / num_drawn if num_drawn else None,
        "num_selected": batch.selected.num_rows,
        "num_quarantined": scored.num_rows - valid.num_rows,
    }


def _ranking_facts(valid: pa.Table, config: RaftConfig) -> dict[str, float | None]:
    names = ("candidates_reward", "best_of_k_reward", "headroom", "headroom_bound", "ties", "all_best", "none_pass")
    if not valid.num_rows:
        return dict.fromkeys(names)
    rewards_N, starts_B = _by_prompt(valid)
    sizes_B = np.diff(starts_B, append=len(rewards_N))
    best_B = np.maximum.reduceat(rewards_N, starts_B)
    shared_B = np.add.reduceat(rewards_N == np.repeat(best_B, sizes_B), starts_B, dtype=np.int64)
    mean, best = float(rewards_N.mean()), float(best_B.mean())
    passes_B, passes_N = passes(config.selection, best_B), passes(config.selection, rewards_N)
    all_B = shared_B == sizes_B if passes_N is None else np.minimum.reduceat(passes_N, starts_B)
    limits = config.validation
    span = float(rewards_N.max() - rewards_N.min())
    if limits.reward_min is not None and limits.reward_max is not None:
        span = limits.reward_max - limits.reward_min
    return {
        "candidates_reward": mean,
        "best_of_k_reward": best,
        "headroom": best - mean,
        "headroom_bound": span * math.sqrt(math.log(config.sampling.samples_per_prompt) / 2),
        "ties": float((shared_B > 1).mean()),
        "all_best": float(all_B.mean()),
        "none_pass": None if passes_B is None else float((~passes_B).mean()),
    }


def _by_prompt(valid: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rewards with those of a prompt side by side, and where each prompt begins."""
    codes_N = valid["prompt_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes_N, kind="stable")
    starts_B = np.flatnonzero(np.diff(codes_N[order], prepend=-1))
    return valid["reward"].to_numpy()[order], starts_B


def _interval(column: pa.ChunkedArray, config: RaftConfig) -> Interval:
    return mean_interval(_finite(column.to_pylist()), confidence=config.evaluation.confidence)


def _rough(evaluation: pa.Table, names: Sequence[str]) -> list[str]:
    """Which of ``names`` have an interval, and of too few prompts for it to hold."""
    return [name for name in names if 0 < len(_finite(evaluation[name].to_pylist())) < HOLDS_FROM]


def _slices(evaluation: pa.Table) -> dict[str, float]:
    """Mean reward of each named group; prompts without a group belong to no slice."""
    by_group: dict[str, list[float | None]] = {}
    for group, value in zip(evaluation["group"].to_pylist(), evaluation["reward"].to_pylist(), strict=True):
        by_group.setdefault(group, []).append(value)
    return {
        group: sum(values) / len(values)
        for group, some in sorted(by_group.items())
        if group and (values := _finite(some))
    }


def _components(evaluation: pa.Table, names: Sequence[str]) -> dict[str, float | None]:
    scores: dict[str, list[float | None]] = {name: [] for name in names}
    for row in evaluation["components"].to_pylist():
        for component in row or ():
            if component["name"] in scores:
                scores[component["name"]].append(component["score"])
    return {name: sum(v) / len(v) if (v := _finite(some)) else None for name, some in scores.items()}


def _finite(values: Collection[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _share(flags: pa.ChunkedArray) -> float | None:
    return float(pc.mean(flags).as_py()) if len(flags) else None
