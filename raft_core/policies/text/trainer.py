"""One rank of a fine-tuning: transformers' Trainer on DeepSpeed, with RAFT's loss and batch plan.

Runs in a child process of ``raft_core.launch.processes`` (ZeRO-3 leaves flags in a process). Parameters and
gradients are float32; with dtype bfloat16 the forward pass runs under autocast, inside the engine.
The optimiser is torch's AdamW, stepped by DeepSpeed: no operator is compiled, so no compiler is
needed.
"""

import json
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate import PartialState
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.utils import clip_grad_norm_
from deepspeed.runtime.zero import GatheredParameters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments

from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.errors import DivergedError, StepError
from raft_core.files.artifacts import folder_digest, write_json
from raft_core.launch.processes import join_ranks
from raft_core.policies.base import FinetuneJob
from raft_core.policies.text.adapter import apply_adapter, check_same_shape, fresh_adapter, save_adapter
from raft_core.policies.text.batches import Batch
from raft_core.policies.text.checkpoint import make_durable, save_full
from raft_core.policies.text.data import MicroBatches, TrainingSequence, micro_batches_per_step, read_selected
from raft_core.policies.text.job import MANIFEST, POLICY
from raft_core.policies.text.loss import learning_rate_factor, summed_loss
from raft_core.policies.text.model import (
    Model,
    eos_token_ids,
    load_policy,
    load_tokenizer,
    load_weights,
    masked_logits,
    memory_errors,
    model_folder,
)
from raft_core.policies.text.probe import check_packing
from raft_core.policies.text.resume import LOGGED, drop_others, seal
from raft_core.policies.text.trained import trained_parts, without_dropout

SHORT_TOKENS = 160
"""Longest row for which plain attention trains faster (16 rows, 9 heads: 48 tokens 2.2 ×, 160 tokens 1.3 ×)."""


def train(job: FinetuneJob) -> None:
    """Fine-tune as this process's rank; rank 0 writes ``scratch/policy`` and, last, ``scratch/result.json``."""
    with memory_errors():
        rank, ranks = join_ranks()
        if ranks != job.finetuning.ranks:
            raise StepError(
                "the launcher started the wrong number of training processes",
                got=f"{ranks} ranks",
                expected=f"{job.finetuning.ranks} (finetuning.ranks)",
                hint=f"set finetuning.ranks: {ranks}, or correct the launcher (RAFT_LAUNCHER)",
            )
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a compiled shortcut that only inference uses
        tokenizer = load_tokenizer(model_folder(job.policy), _text(job))
        arguments = training_arguments(job)
        model = trainable_model(job)
        if job.finetuning.batching == "packed" and job.finetuning.zero_stage < 3:
            check_packing(base_of(model))  # ZeRO-3 splits the weights; the start of the run tried this architecture
        restore = None if job.finetuning.model_dropout else without_dropout(base_of(model))
        wanted = job.finetuning.loss.columns
        sequences = read_selected(job.selected, eos_token_ids(base_of(model), tokenizer), wanted)
        trainer = ResponseTrainer(model, arguments, job, sequences, rank)
        trainer.train(resume_from_checkpoint=str(job.resume_from) if job.resume_from else None)
        check_engine(trainer.model_wrapped, job.finetuning)
        state_dict = gathered_state(model, to_rank=rank, stage=job.finetuning.zero_stage)
        if restore is not None:
            restore()
        if rank == 0:
            _write(job, model, state_dict, sequences, trainer.logged)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def trainable_model(job: FinetuneJob) -> Model:
    """The current policy, ready for training: with its adapter or a new one, or with all weights trainable."""
    policy, lora = job.policy, job.finetuning.lora
    if lora is None:
        return load_policy(policy, _text(job)).requires_grad_(True).train()
    model = load_weights(model_folder(policy), _text(job))
    if policy.base is None:
        return fresh_adapter(model, lora, policy.digest, job.seed).train()
    adapted = apply_adapter(model, policy.path, policy.base.digest, trainable=True)
    check_same_shape(adapted, lora)
    return adapted.train()


def _text(job: FinetuneJob) -> TextPolicyConfig:
    assert isinstance(job.config, TextPolicyConfig), "another modality has another trainer"
    return job.config


def check_engine(engine: object, config: FinetuningConfig) -> None:
    """Raise StepError unless DeepSpeed trained, at the stage and with the ranks that were asked for."""
    found = None
    if isinstance(engine, DeepSpeedEngine):
        found = (engine.zero_optimization_stage(), engine.dp_world_size)
    if found != (config.zero_stage, config.ranks):
        raise StepError(
            "DeepSpeed did not train with the configured ZeRO stage and ranks",
            got=f"{type(engine).__name__}, (ZeRO stage, ranks) {found}",
            expected=f"DeepSpeedEngine, (ZeRO stage, ranks) {(config.zero_stage, config.ranks)}",
            hint="run `raft doctor` and report its output as an issue",
        )


def base_of(model: Model) -> Model:
    """The transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def training_arguments(job: FinetuneJob) -> TrainingArguments:
    """Trainer's arguments. They are created before the model, so that ZeRO-3 can load it in parts.

    Accelerate silently does not use DeepSpeed when asked to use the CPU; given the backend and not the
    device, it uses DeepSpeed on whatever device there is.
    """
    config = job.finetuning
    PartialState(cpu=False, backend=torch.distributed.get_backend())
    return TrainingArguments(
        output_dir=str(job.checkpoints or job.scratch / "trainer"),
        deepspeed=deepspeed_config(config.zero_stage),
        per_device_train_batch_size=(config.batch_size // config.ranks) // micro_batches_per_step(config),
        gradient_accumulation_steps=micro_batches_per_step(config),
        learning_rate=config.learning_rate,
        optim="adamw_torch",
        adam_beta1=config.adam_betas[0],
        adam_beta2=config.adam_betas[1],
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=1,
        seed=job.seed % 2**32,
        accelerator_config={"use_configured_state": True},
        average_tokens_across_devices=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if job.checkpoints and config.checkpoint_steps else "no",
        save_steps=config.checkpoint_steps or 0,
        report_to="none",
        disable_tqdm=True,
    )


def deepspeed_config(stage: int) -> dict[str, Any]:
    """``deepspeed/zeroN.json`` beside this module (``infra/deepspeed`` links there); Trainer fills what says "auto"."""
    path = Path(__file__).parent / "deepspeed" / f"zero{stage}.json"
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StepError(
            f"DeepSpeed's configuration cannot be read: {path}", got=error, hint="install raft-mlops again"
        ) from error
    return config


def attention_kernel(batch: Batch, dtype: str) -> AbstractContextManager[None]:
    """Plain attention where torch's fused kernel is slower: backward, in bfloat16, on a CPU, with short rows."""
    ids_BT = batch.inputs["input_ids"]
    slow = ids_BT.device.type == "cpu" and dtype == "bfloat16" and ids_BT.shape[1] <= SHORT_TOKENS
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


class ResponseTrainer(Trainer):  # type: ignore[misc]
    """Trainer with RAFT's loss, its batch plan and its learning rate."""

    loss_is_scaled_for_ga = True

    def __init__(
        self, model: Model, arguments: TrainingArguments, job: FinetuneJob, sequences: list[TrainingSequence], rank: int
    ) -> None:
        self.job, self.logged, self.clipped_norm = job, list[dict[str, float]](), math.nan
        self.head = base_of(model).get_output_embeddings()
        if job.finetuning.dtype == "bfloat16":
            model.forward = torch.autocast(arguments.device.type, torch.bfloat16)(model.forward)
        batches = MicroBatches(sequences, job.finetuning, job.seed, rank)
        super().__init__(model=model, args=arguments, train_dataset=batches)
        if job.resume_from is not None:
            self.logged = json.loads((job.resume_from / LOGGED).read_bytes())
            print(f"continuing after optimizer step {len(self.logged)}")

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The planned micro batches, which are already those of this rank."""
        each = BatchSampler(SequentialSampler(self.train_dataset), batch_size=1, drop_last=False)
        return DataLoader(self.train_dataset, batch_sampler=each, collate_fn=lambda items: items[0])

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """This micro batch's share of the step's loss, times the ranks (DeepSpeed averages over them)."""
        batch = inputs["batch"].to(self.args.device)
        with attention_kernel(batch, self.job.finetuning.dtype):
            logits_NV = masked_logits(model, batch.inputs, batch.predicts_BT, head=self.head)
        job = self.job
        total = summed_loss(
            job.finetuning.loss, logits_NV, batch.targets_N, batch.weights_N, job.loss_temperature, batch.columns
        )
        share: float = self.args.world_size / inputs["num_tokens"]
        return total * share

    def training_step(self, model: Any, *arguments: Any, **named: Any) -> torch.Tensor:
        """One micro batch. Without ZeRO, DeepSpeed clips without reporting the norm, so it is recorded here."""
        if self.job.finetuning.zero_stage == 0:

            def clip() -> None:
                self.clipped_norm = float(clip_grad_norm_(model.module.parameters(), model.gradient_clipping()))

            model.clip_fp32_gradients = clip
        loss: torch.Tensor = super().training_step(model, *arguments, **named)
        return loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule that the configuration names, for this iteration of the run."""
        if self.lr_scheduler is None:  # type: ignore[has-type]
            job = self.job

            def factor(step: int) -> float:
                return learning_rate_factor(
                    job.finetuning.schedule,
                    step,
                    num_steps=num_training_steps,
                    warmup_steps=job.finetuning.warmup_steps,
                    iteration=job.iteration,
                    iterations=job.iterations,
                )

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Do nothing: DeepSpeed's own checkpoint holds the weights, and the policy is written at the end."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint and seal it once every rank has written its part; not after the last step."""
        if self.state.global_step >= self.state.max_steps:
            return
        super()._save_checkpoint(model, trial)
        torch.distributed.barrier()
        if self.args.process_index == 0:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            write_json(folder / LOGGED, self.logged)
            seal(folder)
            drop_others(folder)
        torch.distributed.barrier()

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record the figures of each optimizer step; stop when they are not finite."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        norm = logs.get("grad_norm", self.clipped_norm)
        entry = {"loss": float(logs["loss"]), "learning_rate": float(logs["learning_rate"]), "grad_norm": float(norm)}
        if not all(map(math.isfinite, entry.values())):
            raise DivergedError(
                f"the training diverged at optimizer step {self.state.global_step}",
                got=entry,
                expected="a finite loss, learning rate and gradient norm",
                hint="lower finetuning.learning_rate or finetuning.max_grad_norm, and start a new run",
            )
        self.logged.append({"step": float(self.state.global_step), **entry})


# -- what is written --------------------------------------------------------------------------------


def gathered_state(model: Model, *, to_rank: int, stage: int) -> dict[str, torch.Tensor]:
    """Trained parameters and saved buffers by name, only on rank 0; parameter by parameter under ZeRO-3."""
    state: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            with GatheredParameters([parameter], enabled=stage == 3):
                if to_rank == 0:
                    state[name] = parameter.detach().cpu().clone()
    if to_rank == 0:
        saved = model.state_dict().keys()
        state |= {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers() if name in saved}
    return state


def _write(
    job: FinetuneJob,
    model: Model,
    state_dict: dict[str, torch.Tensor],
    sequences: list[TrainingSequence],
    logged: list[dict[str, float]],
) -> None:
    folder = job.scratch / POLICY
    if job.finetuning.lora is None:
        save_full(model, state_dict, model_folder(job.policy), folder)
    else:
        save_adapter(model, state_dict, folder)
    make_durable(folder)
    result = {
        "digest": folder_digest(folder),
        "num_sequences": len(sequences),
        "num_tokens": sum(len(s.completion) for s in sequences),
        "log": logged,
        "trained": trained_parts(model),
    }
    write_json(job.scratch / MANIFEST, result)
