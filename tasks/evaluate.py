"""Evaluate: one sample of each held-out prompt, every reward, perplexity, and the scorecard."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from raft_core.evaluation.divergence import perplexity
from raft_core.evaluation.scorecard import Batch, scorecard
from raft_core.policies.base import LoadedPolicy, Progress
from raft_core.records.artifacts import file_digest, json_digest, write_json
from raft_core.records.run import BASE
from raft_core.records.steps import StepKey, StepRecord, code_digest, once
from raft_core.records.tables import (
    EVALUATION,
    PERPLEXITY,
    QUARANTINE,
    SCORED,
    SELECTED,
    read_table,
    to_table,
    write_table,
)
from raft_core.rewards import score as scoring
from raft_core.types import Policy, Prompt, Sample
from tasks.finetune import read_result
from tasks.iteration import Iteration, derived_seed
from tasks.prepare import perplexity_texts
from tasks.shards import sample_shards


def evaluate(
    it: Iteration, policy: Policy, held_out: Sequence[Prompt], progress: Progress, warn: Callable[[str], None]
) -> StepRecord:
    """Evaluate ``policy``, the one that the iteration made: write ``evaluation`` and ``perplexity``.

    The same prompts and the same random streams serve every iteration, so differences are paired.
    """
    config = it.config
    rewards = scoring.check_rewards(config.scoring)
    settings = config.evaluation
    texts = (
        perplexity_texts(settings.perplexity_text, settings.max_perplexity_texts) if settings.perplexity_text else []
    )
    key = StepKey(
        "evaluate",
        inputs={
            "policy": policy.identity, "base": it.base.identity,
            "prompts": file_digest(it.run.table(BASE, "prompts")), "texts": json_digest(texts),
            **{f"reward {name}": identity for name, identity in rewards.identities.items()},
        },
        settings={
            "sampling": config.sampling.model_dump(mode="json", exclude={"prompts_per_iteration"}),
            "policy": config.policy.model_dump(mode="json"),
            "scoring": config.scoring.model_dump(mode="json"),
        },
        code=it.code("backend") + code_digest("raft_core.rewards.score"),
        numerics=it.backend.numerics(config.sampling.dtype),
        seed=derived_seed(config.seed, "evaluate"),
    )  # fmt: skip
    outputs = {name: it.table(name) for name in ("evaluation", "perplexity")}

    def compute() -> None:
        model = it.backend.load(policy, config.policy, dtype=config.sampling.dtype)
        samples = _sample(it, model, held_out, key, progress)
        logprobs = model.text_logprobs(texts)
        policy_logprobs = _tempered(it, model, samples)
        del model
        base_logprobs = policy_logprobs if it.number == BASE else _base_logprobs(it, samples)
        table = _table(samples, held_out, rewards, policy_logprobs, base_logprobs, warn)
        write_table(it.table("evaluation"), table, EVALUATION)
        likelihoods = [{"text": t, "logprobs": values} for t, values in zip(texts, logprobs, strict=True)]
        write_table(outputs["perplexity"], to_table(PERPLEXITY, likelihoods), PERPLEXITY)

    return once(it.runs, key, outputs, compute)


def _sample(
    it: Iteration, model: LoadedPolicy, held_out: Sequence[Prompt], key: StepKey, progress: Progress
) -> list[Sample]:
    shards = sample_shards(
        lambda: model, held_out, it.config.sampling, samples_per_prompt=1, seed=key.seed,
        folder=it.work / f"evaluate-{key.digest[:16]}", progress=progress,
    )  # fmt: skip
    return [Sample(**row) for shard in shards for row in shard.to_pylist()]


def _tempered(it: Iteration, model: LoadedPolicy, samples: Sequence[Sample]) -> list[list[float]]:
    """log p of the completions at λ without top-k and top-p, so that the KL compares whole distributions."""
    sampling = it.config.sampling
    if sampling.temperature == 0:
        return [list(sample.logprobs) for sample in samples]
    if sampling.top_p == 1 and sampling.top_k == 0 and sampling.min_new_tokens == 0:
        return [list(sample.sampling_logprobs) for sample in samples]
    return model.logprobs(samples, temperature=sampling.temperature)


def _base_logprobs(it: Iteration, samples: Sequence[Sample]) -> list[list[float]]:
    base = it.backend.load(it.base, it.config.policy, dtype=it.config.sampling.dtype)
    return base.logprobs(samples, temperature=it.config.sampling.temperature or 1.0)


def _table(
    samples: Sequence[Sample], held_out: Sequence[Prompt], rewards: scoring.Rewards,
    policy_logprobs: Sequence[list[float]], base_logprobs: Sequence[list[float]], warn: Callable[[str], None],
) -> pa.Table:  # fmt: skip
    prompts = {prompt.prompt_id: prompt for prompt in held_out}
    rows = pa.Table.from_pylist([{name: getattr(s, name) for name in scoring.SCORING_COLUMNS} for s in samples])
    scored = scoring.score(rows, prompts, rewards.rewards, max_failed_share=1.0)
    gold = scoring.score_gold(rows, prompts, rewards.gold, warn=warn) if rewards.gold else None
    gold_rewards = gold["reward"].to_pylist() if gold else [None] * len(samples)
    gold_components = gold["components"].to_pylist() if gold else [[] for _ in samples]
    columns = {
        "prompt_id": [s.prompt_id for s in samples],
        "group": [prompts[s.prompt_id].group for s in samples],
        "prompt": [prompts[s.prompt_id].text for s in samples],
        "sample_id": [s.sample_id for s in samples],
        "completion": [s.completion for s in samples],
        "completion_token_ids": [s.completion_token_ids for s in samples],
        "finish_reason": [s.finish_reason for s in samples],
        "sampling_logprobs": policy_logprobs,
        "base_logprobs": base_logprobs,
        "reward": scored["reward"].to_pylist(),
        "gold_reward": gold_rewards,
        "components": [a + b for a, b in zip(scored["components"].to_pylist(), gold_components, strict=True)],
    }
    return pa.table(columns, schema=EVALUATION)


def report(it: Iteration) -> None:
    """Write the scorecard ``report.json`` from the iteration's tables."""
    window = it.config.gates.convergence_window
    earlier = it.number - window if window else None
    values = scorecard(
        read_table(it.table("evaluation"), EVALUATION),
        perplexity(read_table(it.table("perplexity"), PERPLEXITY)["logprobs"].to_pylist()),
        it.config,
        iteration=it.number,
        batch=None if it.number == BASE else _batch(it),
        losses=[] if it.number == BASE else [row["loss"] for row in read_result(it).log],
        then=None if earlier is None or earlier < BASE else read_table(it.run.table(earlier, "evaluation"), EVALUATION),
    )
    write_json(it.folder / "report.json", values)


def _batch(it: Iteration) -> Batch:
    return Batch(
        scored=read_table(it.table("scored"), SCORED),
        selected=read_table(it.table("selected"), SELECTED, ["sample_id", "prompt_id"]),
        quarantine=read_table(it.table("quarantine"), QUARANTINE),
    )
