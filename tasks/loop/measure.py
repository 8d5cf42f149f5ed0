"""Measure a policy on prompts: one sample per prompt, all rewards, likelihoods. Used by evaluation and promotion."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from raft_core.config.policy import PolicyConfig
from raft_core.config.run import RaftConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.files.artifacts import json_digest
from raft_core.imports import code_digest
from raft_core.policies.base import LoadedPolicy, Modality, OpenLikelihood, OpenSampler, modality
from raft_core.records.steps import StepKey
from raft_core.records.tables import EVALUATION, PERPLEXITY, to_table
from raft_core.rewards import score as scoring
from raft_core.rewards.load import Rewards
from raft_core.types import Policy, Progress, Prompt, Sample
from tasks.loop.sample import sample_shards


@dataclass(frozen=True, slots=True)
class Subject:
    """The policy to measure, and the settings: ``config`` defines sampling, rewards and texts."""

    policy: Policy
    base: Policy
    config: RaftConfig
    loading: PolicyConfig
    """Settings for loading and prompting the policy; usually ``config.policy``."""
    seed: int

    @property
    def modality(self) -> Modality:
        """The roles of the policy's modality."""
        return modality(self.loading.type)

    def open(self, policy: Policy) -> AbstractContextManager[LoadedPolicy]:
        """Load a policy into memory."""
        return self.modality.open(policy, self.loading, dtype=self.config.sampling.dtype)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the loaded policy generated, and its log-probabilities."""

    samples: Sequence[Sample]
    policy_logprobs: Sequence[list[float]]
    text_logprobs: Sequence[list[float]]


def measuring_key(
    step: str, subject: Subject, prompts: str, texts: Sequence[str], rewards: Rewards, **more: str | None
) -> StepKey:
    """The content address of a measurement. ``prompts``: digest of the prompts; ``more``: further inputs."""
    config = subject.config
    codes = dict.fromkeys((*subject.modality.sampler.CODE, *subject.modality.likelihood.CODE))
    return StepKey(
        step,
        inputs={
            "policy": subject.policy.identity,
            "base": subject.base.identity,
            "prompts": prompts,
            "texts": json_digest(texts),
            **more,
            **{f"reward {name}": identity for name, identity in rewards.identities.items()},
        },
        settings={
            "sampling": config.sampling.model_dump(mode="json", exclude={"prompts_per_iteration"}),
            "policy": subject.loading.model_dump(mode="json"),
            "scoring": config.scoring.model_dump(mode="json"),
        },
        code="".join(map(code_digest, (*codes, "raft_core.rewards.score"))),
        numerics=subject.modality.checkpoint.numerics(config.sampling.dtype),
        seed=subject.seed,
    )


def answer(
    subject: Subject,
    model: LoadedPolicy,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    folder: Path,
    progress: Progress,
) -> Answers:
    """Sample each prompt once and compute all log-probabilities. ``folder``: scratch for finished shards."""
    samples = sample_all(model, prompts, subject.config.sampling, 1, subject.seed, folder, progress)
    return Answers(samples, _teacher_forced(subject, model, samples), model.text_logprobs(texts))


def sample_all(
    model: OpenSampler,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    folder: Path,
    progress: Progress,
) -> list[Sample]:
    """All samples of ``prompts``, made shard by shard."""
    shards = sample_shards(
        lambda: nullcontext(model),
        prompts,
        sampling,
        samples_per_prompt=samples_per_prompt,
        seed=seed,
        folder=folder,
        progress=progress,
    )
    return [Sample(**row) for shard in shards for row in shard.to_pylist()]


def base_logprobs(subject: Subject, samples: Sequence[Sample]) -> list[list[float]]:
    """log p of the completions under the initial policy, at the same λ."""
    opened = subject.modality.likelihood.open(subject.base, subject.loading, dtype=subject.config.sampling.dtype)
    with opened as base:
        return _teacher_forced(subject, base, samples)


def _teacher_forced(subject: Subject, model: OpenLikelihood, samples: Sequence[Sample]) -> list[list[float]]:
    """log p of the completions at λ without top-k and top-p, so that the KL compares whole distributions.

    Both sides of the KL are computed here. The log-probabilities recorded while decoding are rounded differently: in
    bfloat16 the KL of the base to itself would be some hundredths of a nat.
    """
    return model.logprobs(samples, temperature=subject.config.sampling.temperature or 1.0)


def evaluation_table(
    answers: Answers,
    under_base: Sequence[list[float]],
    prompts: Sequence[Prompt],
    rewards: Rewards,
    max_failed_share: float,
    warn: Callable[[str], None],
) -> pa.Table:
    """The EVALUATION table: every reward of every answer. Raises RewardError as ``score_samples`` does."""
    samples = answers.samples
    known = {prompt.prompt_id: prompt for prompt in prompts}
    scored, gold = score_samples(samples, known, rewards, max_failed_share, warn)
    columns = {
        "prompt_id": [s.prompt_id for s in samples],
        "group": [known[s.prompt_id].group for s in samples],
        "prompt": [known[s.prompt_id].text for s in samples],
        "sample_id": [s.sample_id for s in samples],
        "completion": [s.completion for s in samples],
        "completion_token_ids": [s.completion_token_ids for s in samples],
        "finish_reason": [s.finish_reason for s in samples],
        "sampling_logprobs": answers.policy_logprobs,
        "base_logprobs": under_base,
        "reward": scored["reward"].to_pylist(),
        "gold_reward": gold["reward"].to_pylist() if gold else [None] * len(samples),
        "components": components(scored, gold),
    }
    return pa.table(columns, schema=EVALUATION)


def perplexity_table(answers: Answers, texts: Sequence[str]) -> pa.Table:
    """The PERPLEXITY table."""
    rows = [{"text": t, "logprobs": values} for t, values in zip(texts, answers.text_logprobs, strict=True)]
    return to_table(PERPLEXITY, rows)


def score_samples(
    samples: Sequence[Sample],
    prompts: dict[str, Prompt],
    rewards: Rewards,
    max_failed_share: float,
    warn: Callable[[str], None],
) -> tuple[pa.Table, pa.Table | None]:
    """SCORED by the rewards that select, and by the gold rewards (None without any).

    Raises RewardError if more than ``max_failed_share`` cannot be scored: a measurement is kept for good, so it must
    not be made during an outage.
    """
    rows = pa.Table.from_pylist([{name: getattr(s, name) for name in scoring.SCORING_COLUMNS} for s in samples])
    scored = scoring.score(rows, prompts, rewards.rewards, max_failed_share=max_failed_share)
    return scored, scoring.score_gold(rows, prompts, rewards.gold, warn=warn) if rewards.gold else None


def components(scored: pa.Table, gold: pa.Table | None) -> list[list[dict[str, Any]]]:
    """The score of every component for every sample; gold rewards come last."""
    others = gold["components"].to_pylist() if gold else [[] for _ in range(scored.num_rows)]
    return [a + b for a, b in zip(scored["components"].to_pylist(), others, strict=True)]
