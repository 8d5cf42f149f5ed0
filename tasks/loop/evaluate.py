"""Evaluate: one sample of each held-out prompt, every reward, perplexity, and the scorecard."""

from collections.abc import Callable, Sequence
from typing import Any

from raft_core.evaluation.scorecard import scorecard
from raft_core.files.artifacts import file_digest, write_json
from raft_core.metrics.base import Batch, Measured
from raft_core.metrics.registry import metric_sources
from raft_core.records.pinned import check_pins
from raft_core.records.run import BASE
from raft_core.records.steps import StepRecord, run_cached
from raft_core.records.tables import EVALUATION, PERPLEXITY, QUARANTINE, SCORED, SELECTED, read_table, write_table
from raft_core.rewards.load import check_rewards
from raft_core.types import Policy, Progress, Prompt
from tasks.loop.finetune import read_result
from tasks.loop.iteration import Iteration, derived_seed, left_out
from tasks.loop.measure import Subject, answer, base_logprobs, evaluation_table, measuring_key, perplexity_table
from tasks.loop.prepare import perplexity_texts


def evaluate(
    it: Iteration, policy: Policy, held_out: Sequence[Prompt], progress: Progress, warn: Callable[[str], None]
) -> StepRecord:
    """Evaluate the iteration's new ``policy``: write ``evaluation`` and ``perplexity``.

    Every iteration uses the same prompts and the same random streams, so differences between iterations are paired.
    """
    config = it.config
    rewards = check_rewards(config.scoring)
    check_pins(it.run, {**rewards.sources, **metric_sources(config.evaluation.metrics)})
    texts, _ = perplexity_texts(config, it.run.path.parent.parent)
    subject = Subject(policy, it.base, config, config.policy, derived_seed(config.seed, "evaluate"))
    prompts = file_digest(it.run.table(BASE, "prompts"))
    key = measuring_key("evaluate", subject, prompts, texts, rewards, **left_out(it))
    outputs = {name: it.table(name) for name in ("evaluation", "perplexity")}

    def compute() -> None:
        with subject.open(policy) as model:
            answers = answer(subject, model, held_out, texts, it.work / f"evaluate-{key.digest[:16]}", progress)
        del model  # before the base policy needs the memory
        under_base = answers.policy_logprobs if it.number == BASE else base_logprobs(subject, answers.samples)
        table = evaluation_table(answers, under_base, held_out, rewards, config.scoring.max_failed_share, warn)
        write_table(outputs["evaluation"], table, EVALUATION)
        write_table(outputs["perplexity"], perplexity_table(answers, texts), PERPLEXITY)

    return run_cached(it.runs, key, outputs, compute)


def report(it: Iteration) -> dict[str, Any]:
    """Write the scorecard ``report.json`` from the iteration's tables, and return it."""
    window = it.config.gates.convergence_window
    earlier = it.number - window if window else None
    measured = Measured(
        read_table(it.table("evaluation"), EVALUATION),
        it.config,
        it.number,
        text_logprobs=read_table(it.table("perplexity"), PERPLEXITY)["logprobs"].to_pylist(),
        batch=None if it.number == BASE else _batch(it),
        losses=[] if it.number == BASE else [row["loss"] for row in read_result(it).log],
        then=None if earlier is None or earlier < BASE else read_table(it.run.table(earlier, "evaluation"), EVALUATION),
    )
    values = scorecard(measured)
    write_json(it.folder / "report.json", values)
    return values


def _batch(it: Iteration) -> Batch:
    return Batch(
        scored=read_table(it.table("scored"), SCORED),
        selected=read_table(it.table("selected"), SELECTED, ["sample_id", "prompt_id"]),
        quarantine=read_table(it.table("quarantine"), QUARANTINE),
    )
