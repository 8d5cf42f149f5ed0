"""Fine-tune (Algorithm 1, step 3): the next policy from the current one and the filtered set."""

import uuid
from dataclasses import asdict

from raft_core.files.artifacts import file_digest, write_json
from raft_core.files.plain_json import MAX_LOG_BYTES, read_json
from raft_core.losses.registry import loss_sources
from raft_core.policies.base import FinetuneJob, FinetuneResult
from raft_core.records.pinned import check_pins
from raft_core.records.steps import StepKey, StepRecord, run_cached
from raft_core.types import Artifact, Policy
from tasks.loop.iteration import Iteration


def finetune(it: Iteration) -> StepRecord:
    """Write ``policy/`` and ``finetune.json`` (loss, learning rate and gradient norm of each optimiser step)."""
    config = it.config
    check_pins(it.run, loss_sources(config.finetuning.loss))
    key = StepKey(
        "finetune",
        inputs={"policy": it.policy.identity, "selected": file_digest(it.table("selected"))},
        settings={
            "finetuning": config.finetuning.model_dump(mode="json", exclude={"merge", "checkpoint_steps"}),
            "policy": config.policy.model_dump(mode="json"),
            "loss_temperature": config.loss_temperature,
            "schedule": [it.number, config.iterations] if config.finetuning.schedule == "linear_over_run" else None,
        },
        code=it.training_code,
        numerics={**it.modality.checkpoint.numerics(config.finetuning.dtype), "ranks": config.finetuning.ranks},
        seed=it.seed("finetune"),
    )

    def compute() -> None:
        scratch = it.work / f"finetune-{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        result = it.modality.trainer.fit(
            FinetuneJob(
                policy=it.policy,
                config=config.policy,
                finetuning=config.finetuning,
                selected=it.table("selected"),
                loss_temperature=config.loss_temperature,
                seed=key.seed,
                iteration=it.number,
                iterations=config.iterations,
                out=it.folder / "policy",
                scratch=scratch,
                children_lock=it.run.path / "children.lock",
                checkpoints=it.work / f"training-{key.digest[:16]}" if config.finetuning.checkpoint_steps else None,
            )
        )
        write_json(it.folder / "finetune.json", asdict(result))

    return run_cached(
        it.runs, key, {"policy": it.folder / "policy", "finetune.json": it.folder / "finetune.json"}, compute
    )


def next_policy(it: Iteration, digest: str) -> Policy:
    """The policy that iteration ``it`` made: an adapter of the base, or full weights."""
    base = None if it.config.finetuning.lora is None else Artifact(it.base.path, it.base.digest)
    return Policy(it.folder / "policy", digest, base)


def read_result(it: Iteration) -> FinetuneResult:
    """The result that the fine-tuning reported."""
    return FinetuneResult(**read_json(it.folder / "finetune.json", MAX_LOG_BYTES))


def untouched(it: Iteration) -> str | None:
    """A warning about weights that the adapter does not train; None if there are none.

    With explicit ``lora.targets`` the other weights are left out on purpose, so there is no warning.
    """
    lora = it.config.finetuning.lora
    if lora is None or lora.targets != "all-linear":
        return None
    trained = read_result(it).trained
    if not (kinds := trained.get("untouched")):
        return None
    total = trained["total_parameters"]
    named = ", ".join(f"{name} ({size / total:.0%} of the parameters)" for name, size in sorted(kinds.items()))
    return (
        f"the LoRA adapter trains {trained['modules']} linear layers, but not {named}, which are not linear layers. "
        "To train all weights, set finetuning.lora: null"
    )
