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
    """Low-rank adapters: instead of all weights, two small matrices per linear layer are trained.

    One adapter is trained further in every iteration, so its `r` and `alpha` are the same for the whole run. For
    example `lora: {r: 16, alpha: 32}`; `lora: null` trains all weights.
    """

    r: int = Field(8, ge=1, description="rank of the update; raise it to let the policy change more")
    alpha: int = Field(16, ge=1, description="the update is multiplied by alpha / r")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="probability with which inputs of the update are dropped during training"
    )
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear",
        description="names of the modules that get an adapter, such as `[q_proj, v_proj]`; `all-linear`: every linear "
        "layer except the output head",
    )


class FinetuningConfig(ConfigModel):
    """How the next policy is trained on the selected samples: supervised fine-tuning with DeepSpeed and LoRA.

    If a run stops because `gates` are exceeded, lower `learning_rate` first; if the reward hardly moves, raise it. If
    memory runs out, set `micro_batch_size`, which changes the memory and not the size of an optimizer step. For
    example `finetuning: {learning_rate: 1.0e-4, micro_batch_size: 4}`.
    """

    lora: LoraConfig | None = Field(
        LoraConfig(), description="settings of the LoRA adapter that is trained; null: all weights are trained"
    )
    loss: AnyLoss = Field(Raft(), description="the loss that training minimizes")
    merge: bool = Field(
        False,
        description="true: at the end of the run also write the last policy as one checkpoint without adapter; "
        "`raft merge` does it later",
    )
    learning_rate: float = Field(3.5e-4, gt=0, lt=1, description="highest learning rate of AdamW; `schedule` lowers it")
    schedule: Literal["linear_over_run", "linear", "constant"] = Field(
        "linear_over_run",
        description="how the learning rate changes: `linear_over_run`: falls to 0 over all iterations together; "
        "`linear`: falls to 0 within each iteration (as in LMFlow); `constant`: stays",
    )
    warmup_steps: int = Field(
        0, ge=0, description="optimizer steps at the start of each iteration over which the learning rate rises"
    )
    epochs: int = Field(1, ge=1, description="passes over the selected samples in each iteration")
    batch_size: int = Field(16, ge=1, description="samples per optimizer step, over all ranks together")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="samples per forward pass on each rank; lower it if memory runs out; must divide "
        "batch_size / ranks; null: batch_size / ranks",
    )
    batching: Literal["length_grouped", "packed"] = Field(
        "length_grouped",
        description="`length_grouped`: samples of similar length together, padded; `packed`: several samples in one "
        "row, without padding (not every architecture supports it; this is checked when the run starts)",
    )
    model_dropout: bool = Field(
        False, description="true: keep the dropout that the model's config.json sets; `lora.dropout` is separate"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients with a larger norm are scaled down to it")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    adam_betas: tuple[float, float] = Field((0.9, 0.99), description="beta1 and beta2 of AdamW")
    loss_temperature: float | Literal["sampling"] = Field(
        "sampling",
        description="the loss divides the logits by it; `sampling`: the value of sampling.temperature, so that "
        "training fits the distribution that was sampled; `1.0`: the loss of the paper",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="number format of the forward pass; trained weights are always kept in float32"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2,
        description="what DeepSpeed's ZeRO splits between the ranks: 0 nothing, 1 optimizer state, 2 also gradients, "
        "3 also weights; raise it if memory runs out with several ranks",
    )
    ranks: int = Field(
        1,
        ge=1,
        description="number of training processes, usually one per GPU; must divide batch_size; part of the "
        "determinism fingerprint: another number gives slightly different weights",
    )
    checkpoint_steps: int | None = Field(
        100,
        ge=1,
        description="optimizer steps between checkpoints inside an iteration's training, from which an interrupted "
        "training continues; null: it starts that iteration's training again",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch_size % self.ranks:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of ranks {self.ranks}; change one of the two"
            )
        per_rank = self.batch_size // self.ranks
        if self.micro_batch_size is not None and per_rank % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size / ranks = {per_rank}; "
                f"choose a divisor of {per_rank}"
            )
        if self.loss_temperature != "sampling" and not 0 < self.loss_temperature <= 10:
            raise ValueError(
                f"loss_temperature must be above 0 and at most 10, got {self.loss_temperature}; "
                "set it to 1 for the loss of the paper"
            )
        if self.merge and self.lora is None:
            raise ValueError(
                "merge needs lora: with lora: null each policy is a checkpoint without adapter already; remove merge"
            )
        return self
