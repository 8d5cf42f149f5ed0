"""How the next policy is trained."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel
from raft_core.losses.base import Loss
from raft_core.losses.raft import Raft
from raft_core.losses.registry import LOSSES

if TYPE_CHECKING:
    AnyLoss = Loss
else:
    AnyLoss = LOSSES.union()


class LoraConfig(ConfigModel):
    """Low-rank adapters on all linear layers; one adapter is carried on over the iterations."""

    r: int = Field(8, ge=1, description="rank of the update")
    alpha: int = Field(16, ge=1, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the input of the update, in training")
    targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="module names; never the head")


class FinetuningConfig(ConfigModel):
    """Supervised fine-tuning on the filtered set, by DeepSpeed through transformers' Trainer."""

    lora: LoraConfig | None = Field(LoraConfig(), description="none: all weights are trained")
    loss: AnyLoss = Field(Raft(), description="what is minimised")
    merge: bool = Field(False, description="also write the last policy as a plain checkpoint")
    learning_rate: float = Field(3.5e-4, gt=0, lt=1, description="of AdamW, at the first step")
    schedule: Literal["linear_over_run", "linear", "constant"] = Field(
        "linear_over_run", description="linear_over_run: falls over all iterations; linear: over each (LMFlow)"
    )
    warmup_steps: int = Field(0, ge=0, description="optimiser steps of an iteration before the full rate")
    epochs: int = Field(1, ge=1, description="passes over the filtered set in an iteration")
    batch_size: int = Field(16, ge=1, description="sequences of one optimiser step, over all ranks")
    micro_batch_size: int | None = Field(None, ge=1, description="sequences of one forward pass a rank; none: all")
    batching: Literal["length_grouped", "packed"] = Field("length_grouped", description="how a batch is filled")
    model_dropout: bool = Field(
        False, description="keep the dropout that the model's own config.json asks for; apart from lora.dropout"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.99), description="of AdamW")
    loss_temperature: float | Literal["sampling"] = Field(
        "sampling", description="logits are divided by it in the loss; sampling: the sampling's λ; 1 is the paper's"
    )
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the forward pass; weights stay float32")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed's ZeRO: what the ranks share out")
    ranks: int = Field(1, ge=1, description="training processes; a part of the determinism fingerprint")
    checkpoint_steps: int | None = Field(
        100, ge=1, description="a training that was cut off goes on where it was saved, after so many steps; none: off"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch_size % self.ranks:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of ranks {self.ranks}; change one of them")
        per_rank = self.batch_size // self.ranks
        if self.micro_batch_size is not None and per_rank % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size / ranks = {per_rank}; "
                "choose a divisor"
            )
        if self.loss_temperature != "sampling" and not 0 < self.loss_temperature <= 10:
            raise ValueError(
                f"loss_temperature must lie in (0, 10], got {self.loss_temperature}; 1 is the paper's loss"
            )
        if self.merge and self.lora is None:
            raise ValueError("merge needs lora: a full fine-tuning is a plain checkpoint already; remove merge")
        return self
