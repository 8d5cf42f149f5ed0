"""Score samples with weighted rewards; a sample that cannot be scored is quarantined and does not end the run.

r(x, y) = Σ_i w_i · r_i(x, y), summed in the order of the configuration. A sample for which a component raises or
returns no finite number is quarantined with its reason; its other components are kept. A batch that raises, or
returns the wrong count, is tried again one sample at a time, so that only the failing samples are lost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_core.errors import IntegrityError, RewardError
from raft_core.records.tables import SCORED
from raft_core.rewards.base import RewardFn
from raft_core.rewards.returned import Failure, as_scores, error_text
from raft_core.types import Prompt

SCORING_COLUMNS = ["sample_id", "prompt_id", "k", "completion", "source", "status", "reason"]
"""The columns of SAMPLES that scoring reads; token ids and log-probabilities are not loaded."""

BATCH_SAMPLES = 256
"""Maximum number of samples per call of a reward. If a batch fails, each of its samples costs one more call."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A reward in memory, the name of its component and its weight in the sum.

    ``brought``: digest of the code of the package that provides this type of reward; empty for RAFT's own types.
    """

    name: str
    weight: float
    reward: RewardFn
    brought: Mapping[str, str] = field(default_factory=dict)


def score(
    samples: pa.Table,
    prompts: Mapping[str, Prompt],
    rewards: Sequence[NamedReward],
    *,
    max_failed_share: float,
    num_open: int | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """A SCORED row for every row of ``samples`` (at least SCORING_COLUMNS), in the same order.

    Rows that are quarantined already are copied with a null reward. ``progress`` is called with the number of samples
    just done. ``num_open``: number of samples to score in the whole table, if ``samples`` is a part of it that starts
    at a multiple of BATCH_SAMPLES; rewards then get the same batches as for the whole table.

    Raises RewardError as soon as more than ``max_failed_share`` of the samples cannot be scored, for a reward that
    calls ``sys.exit``, and if files of a reward changed meanwhile;
    IntegrityError for a sample whose prompt is not in ``prompts`` (prompt_id → prompt).
    """
    table = _fill(samples, prompts, rewards, max_failed_share, progress, num_open).table()
    _verify(rewards)
    return table


def check_failures(samples: pa.Table, scored: pa.Table, max_failed_share: float) -> None:
    """The check that ``score`` makes on the way, for a table that was scored in parts. Raises RewardError."""
    was_open = pc.equal(samples["status"], "ok")
    reasons = scored.filter(pc.and_(was_open, pc.not_equal(scored["status"], "ok")))["reason"].to_pylist()
    num_open = pc.sum(was_open).as_py() or 0
    if num_open and len(reasons) / num_open > max_failed_share:
        raise _too_many(reasons, num_open, num_open, max_failed_share)


def score_gold(
    samples: pa.Table,
    prompts: Mapping[str, Prompt],
    gold: Sequence[NamedReward],
    *,
    warn: Callable[[str], None],
    progress: Progress | None = None,
) -> pa.Table:
    """As ``score``, for gold rewards: a failure gives null and one warning, and never stops the run."""
    scores = _fill(samples, prompts, gold, 1.0, progress)
    _verify(gold)
    if scores.reasons:
        first = next(iter(scores.reasons.values()))
        warn(f"{len(scores.reasons)} of {scores.num_open} samples have no gold reward: {first}")
    return scores.table()


def _verify(rewards: Sequence[NamedReward]) -> None:
    """Check that what the rewards read has not changed since they were loaded. Raises RewardError."""
    for each in rewards:
        if (verify := getattr(each.reward, "verify", None)) is not None:
            verify()


def _fill(
    samples: pa.Table,
    prompts: Mapping[str, Prompt],
    rewards: Sequence[NamedReward],
    max_failed_share: float,
    progress: Progress | None,
    num_open: int | None = None,
) -> "_Scores":
    scores = _Scores(samples, rewards, num_open)
    for start in range(0, len(samples), BATCH_SAMPLES):
        part = samples.select(["prompt_id", "completion", "status"]).slice(start, BATCH_SAMPLES)
        scores.add(start, part, prompts)
        if scores.num_open and len(scores.reasons) / scores.num_open > max_failed_share:
            raise _too_many(list(scores.reasons.values()), scores.num_tried, scores.num_open, max_failed_share)
        if progress:
            progress(len(part))
    return scores


class _Scores:
    """The scores so far of every row; holds state because batches and rewards fill it one after another."""

    def __init__(self, samples: pa.Table, rewards: Sequence[NamedReward], num_open: int | None) -> None:
        self.samples, self.rewards = samples, rewards
        self.num_open = num_open or pc.sum(pc.equal(samples["status"], "ok")).as_py() or 0
        self.num_tried = 0
        self.components_RN = np.full((len(rewards), len(samples)), np.nan)
        self.reasons: dict[int, str] = {}

    def add(self, start: int, part: pa.Table, prompts: Mapping[str, Prompt]) -> None:
        """Score the rows of ``part``, which starts at row ``start``; record why a row could not be scored."""
        ok = pc.equal(part["status"], "ok")
        rows = start + np.flatnonzero(ok.to_numpy())
        asked = _prompts_of(part["prompt_id"].filter(ok).to_pylist(), prompts)
        completions: list[str] = part["completion"].filter(ok).to_pylist()
        for reward, component_N in zip(self.rewards, self.components_RN, strict=True):
            for row, value in zip(rows.tolist(), batch_scores(reward, asked, completions), strict=True):
                if isinstance(value, Failure):
                    self.reasons[row] = "; ".join(filter(None, (self.reasons.get(row), value.reason)))
                else:
                    component_N[row] = value
        self.num_tried += len(rows)
        for row in rows[~np.isfinite(self._sums(rows))].tolist() if self.rewards else ():
            self.reasons.setdefault(row, "the weighted sum of the rewards is not finite")

    def _sums(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        total = np.zeros(len(rows)) if self.rewards else np.full(len(rows), np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            for reward, component_N in zip(self.rewards, self.components_RN, strict=True):
                total += reward.weight * component_N[rows]
        return total

    def table(self) -> pa.Table:
        """The SCORED table."""
        samples, failed = self.samples, sorted(self.reasons)
        mask = np.zeros(len(samples), bool)
        mask[failed] = True
        reward_N = self._sums(np.arange(len(samples)))
        columns = {name: samples[name] for name in ("sample_id", "prompt_id", "k", "source")}
        columns["reward"] = pa.array(reward_N, mask=~np.isfinite(reward_N))
        columns["components"] = self._components()
        columns["status"] = pc.if_else(pa.array(mask), "quarantined", samples["status"])
        columns["reason"] = pc.replace_with_mask(
            samples["reason"].combine_chunks(), mask, pa.array([self.reasons[row] for row in failed], pa.string())
        )
        return pa.table(columns).select(SCORED.names).cast(SCORED)

    def _components(self) -> pa.ListArray:
        known_NR = np.isfinite(self.components_RN.T)
        offsets = np.concatenate([[0], np.cumsum(known_NR.sum(axis=1))]).astype(np.int32)
        names = pa.array([r.name for r in self.rewards], pa.string()).take(pa.array(np.nonzero(known_NR)[1]))
        values = pa.array(self.components_RN.T[known_NR], pa.float64())
        return pa.ListArray.from_arrays(
            pa.array(offsets), pa.StructArray.from_arrays([names, values], ["name", "score"])
        )


def batch_scores(reward: NamedReward, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float | Failure]:
    """One score or failure per sample; a batch that fails as a whole is tried again one sample at a time."""
    whole = _call(reward, prompts, completions)
    if not isinstance(whole, Failure):
        return whole
    if len(completions) == 1:
        return [whole]
    singles: list[float | Failure] = []
    for prompt, completion in zip(prompts, completions, strict=True):
        single = _call(reward, [prompt], [completion])
        singles += [single] if isinstance(single, Failure) else single
    return singles


def _call(
    reward: NamedReward, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[float | Failure] | Failure:
    if not completions:
        return []
    try:
        return as_scores(reward.reward(list(prompts), list(completions)), len(completions), reward.name)
    except SystemExit as leave:
        raise RewardError(
            f"reward '{reward.name}' tried to end the process",
            got=error_text(leave),
            expected="a reward that returns numbers, or raises an exception for a sample that it cannot score",
            hint="remove sys.exit() from its code; raise any other exception to give up a sample",
        ) from leave
    except Exception as error:
        return Failure.of(f"reward '{reward.name}' raised {error_text(error)}")


def _prompts_of(ids: Sequence[str], prompts: Mapping[str, Prompt]) -> list[Prompt]:
    try:
        return [prompts[i] for i in ids]
    except KeyError as error:
        raise IntegrityError(
            "a sample belongs to an unknown prompt",
            got=f"prompt_id {error.args[0]}",
            expected=f"one of the {len(prompts)} prompts of the iteration",
            hint="score the samples with the prompts of the same iteration",
        ) from None


def _too_many(reasons: Sequence[str], num_tried: int, num_open: int, max_failed_share: float) -> RewardError:
    return RewardError(
        f"too many samples could not be scored: {len(reasons)} of {num_tried} ({len(reasons) / num_tried:.1%})",
        got="\n    ".join(list(dict.fromkeys(reasons))[:3]),
        expected=f"at most {max_failed_share:.1%} of {num_open} samples (scoring.max_failed_share)",
        hint="correct the reward and resume the run; or raise scoring.max_failed_share to quarantine such samples",
    )
