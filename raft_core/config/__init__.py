"""The configuration: small models composed into ``RaftConfig``; the defaults are the vetted setting.

Read and checked by ``raft_core.loading.load_config``. Unknown keys are refused everywhere.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from raft_core.config.execution import ExecutionConfig
from raft_core.config.scoring import ScoringConfig
from raft_core.config_model import ConfigModel, Day, Fraction, RegularExpression, Share
from raft_core.policies.tabular.policy import TabularPolicyConfig
from raft_core.selection.base import SELECTORS, Selector
from raft_core.selection.best_of_k import BestOfK


class TextPolicyConfig(ConfigModel):
    """A causal language model of transformers."""

    type: Literal["text"] = "text"
    model: str = Field(description="a folder in transformers format, or embedded:WORLD/policy")
    chat_template: bool = Field(False, description="render each prompt as a user turn; false: plain text")
    system_prompt: str | None = Field(None, description="a system turn before it; needs chat_template")
    template_date: Day | None = Field(
        None,
        description="what the template takes for today if it prints the date; none: the day on which the run began",
    )
    max_prompt_tokens: int = Field(256, ge=1, description="a longer prompt is refused before sampling")
    trust_remote_code: bool = Field(False, description="run Python code that the model folder brings; recorded")

    @model_validator(mode="after")
    def _needs_template(self) -> Self:
        if self.system_prompt is not None and not self.chat_template:
            raise ValueError("system_prompt needs chat_template: true; set it, or put the text into the prompts")
        if self.template_date is not None and not self.chat_template:
            raise ValueError("template_date needs chat_template: true; set it, or remove template_date")
        return self


def _modality(given: object) -> str:
    """Text, unless something else is said."""
    kind = given.get("type", "text") if isinstance(given, dict) else getattr(given, "type", None)
    return str(kind)


PolicyConfig = Annotated[
    Annotated[TextPolicyConfig, Tag("text")] | Annotated[TabularPolicyConfig, Tag("tabular")], Discriminator(_modality)
]
"""What is aligned: one class a modality."""


class PromptsConfig(ConfigModel):
    """Where prompts come from: JSON lines, CSV or Parquet with a text column, or plain text, one per line."""

    train: str = Field(description="a file, or embedded:WORLD/prompts.train")
    held_out: str | None = Field(None, description="a file; none: a share of train is set apart")
    promotion: str | None = Field(None, description="a file that promotion alone reads, disjoint from both others")
    text_column: str = Field("text", description="of JSON lines and Parquet; ignored for plain text")
    held_out_share: Fraction = Field(0.1, description="share of train set apart when held_out is none")
    promotion_share: Share = Field(0.0, description="share of train set apart for promotion alone")
    max_held_out: int = Field(256, ge=1, description="held-out prompts used in every evaluation")

    @model_validator(mode="after")
    def _one_source_of_promotion_prompts(self) -> Self:
        if self.promotion is not None and self.promotion_share > 0:
            raise ValueError("promotion and promotion_share are both set; leave one of them out")
        return self


class SamplingConfig(ConfigModel):
    """How candidates are drawn (paper: b, K, λ)."""

    prompts_per_iteration: int = Field(48, ge=1, description="b of the paper")
    samples_per_prompt: int = Field(8, ge=1, description="K of the paper")
    temperature: float = Field(0.85, ge=0, le=10, description="λ of the paper; 0 is greedy")
    top_p: Fraction = Field(1.0, description="smallest set of tokens with this probability; 1: all")
    top_k: int = Field(0, ge=0, description="0: no limit")
    max_new_tokens: int = Field(128, ge=1, description="a completion that reaches it is cut: finish reason length")
    min_new_tokens: int = Field(0, ge=0, description="no end of sequence before so many")
    stop: tuple[str, ...] = Field((), description="a completion ends after the first of these strings and keeps it")
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="more tokens that end a completion, like the end of sequence; its text leaves the end out"
    )
    skip_special_tokens: bool = Field(
        False, description="true: rewards see completions without special tokens; stop strings match them either way"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of the weights that are sampled and scored; bfloat16 rounds them without bias"
    )
    shard_prompts: int = Field(16, ge=1, description="prompts of one shard: its composition never changes")
    batch_prompts: int | Literal["auto"] = Field("auto", description="prompts of a shard decoded together; auto: all")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.temperature == 0 and self.samples_per_prompt > 1:
            raise ValueError(
                f"temperature 0 gives {self.samples_per_prompt} equal samples a prompt; "
                "set temperature above 0, or samples_per_prompt: 1"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}")
        if any(not text for text in self.stop):
            raise ValueError("an empty stop string ends every completion at once; remove it")
        return self


class ValidationConfig(ConfigModel):
    """Limits of the Great Expectations suites. Row failures quarantine, set failures stop the run."""

    min_valid_per_prompt: int = Field(1, ge=1, description="a prompt with fewer valid samples is dropped, counted")
    min_prompt_coverage: Share = Field(0.5, description="share of prompts that must reach the selected set")
    reward_min: float | None = Field(None, description="a lower reward quarantines its sample; none: no bound")
    reward_max: float | None = Field(None, description="a higher reward quarantines its sample; none: no bound")
    min_completion_chars: int = Field(1, ge=0, description="a shorter completion is quarantined")
    max_quarantined_share: Share = Field(0.25, description="the run stops when more samples than this are")
    min_stop_share: Share = Field(0.0, description="share of samples whose response ended")
    max_length_drift: float = Field(3.0, gt=1, description="mean length against the previous iteration, as a factor")
    max_duplicate_share: Share = Field(0.9, description="share of samples equal to another of their prompt")
    max_tie_share: Share = Field(1.0, description="share of prompts whose best reward is shared")
    min_signal_share: Share = Field(
        0.01,
        description="minimum share of prompts whose candidates the reward tells apart; 0 lets a run without any go on",
    )
    forbidden_pattern: RegularExpression | None = Field(
        None, description="regular expression; none: nothing is forbidden"
    )
    max_forbidden_share: Share = Field(0.05, description="share of samples that may match it")
    surge_characters: str = Field("#@|<>{}[]\\", description="characters whose surge is watched")
    max_surge: float = Field(0.02, ge=0, description="largest rise of one's share of all characters in an iteration")
    max_held_out_overlap: Share = Field(0.0, description="share of selected prompts that are held-out prompts")


if TYPE_CHECKING:
    SelectionConfig = Selector
else:
    SelectionConfig = SELECTORS.union()


class LoraConfig(ConfigModel):
    """Low-rank adapters on all linear layers; one adapter is carried on over the iterations."""

    r: int = Field(8, ge=1, description="rank of the update")
    alpha: int = Field(16, ge=1, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the input of the update, in training")
    targets: tuple[str, ...] | Literal["all-linear"] = Field("all-linear", description="module names; never the head")


class FinetuningConfig(ConfigModel):
    """Supervised fine-tuning on the filtered set, by DeepSpeed through transformers' Trainer."""

    lora: LoraConfig | None = Field(LoraConfig(), description="none: all weights are trained")
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
    ranks: int = Field(1, ge=1, description="training processes; a part of the numerics class")
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


class EvaluationConfig(ConfigModel):
    """The scorecard on held-out prompts, the same ones every iteration."""

    perplexity_text: str | None = Field(None, description="a file of held-out texts, or embedded:WORLD/perplexity")
    max_perplexity_texts: int = Field(256, ge=1, description="the first so many are used")
    bootstrap_resamples: int = Field(
        2000, ge=100, description="not used: no interval is resampled; older configurations set it"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of each interval")


class GatesConfig(ConfigModel):
    """The budget against the base (row −1), and when to stop. None switches one off."""

    max_perplexity_rise: float | None = Field(0.066, gt=0, description="share of the base's")
    max_kl: float | None = Field(2.0, gt=0, description="nats a sequence, to the initial policy")
    min_distinct_1: float | None = Field(0.85, gt=0, description="factor on the base's")
    min_distinct_2: float | None = Field(0.9, gt=0, description="factor on the base's")
    max_truncation_rise: float | None = Field(0.15, gt=0, description="added share of completions cut by length")
    max_length_factor: float | None = Field(2.0, gt=1, description="mean length against the base's, either way")
    min_headroom: float | None = Field(0.5, gt=0, description="best of K minus mean, factor on the first iteration's")
    convergence_window: int | None = Field(3, ge=1, description="stop without a paired gain against so many ago")


class TrackingConfig(ConfigModel):
    """MLflow. The address is MLFLOW_TRACKING_URI, else a sqlite file in the workspace."""

    experiment: str = Field("raft", description="name of the MLflow experiment; created if missing")
    model_name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.\-]+$", description="registered model; none: raft-NAME")


class VersioningConfig(ConfigModel):
    """DVC."""

    enabled: bool = Field(True, description="false: no pointers, nothing in DVC")
    push: bool = Field(True, description="push each iteration to the default remote")
    push_limit_s: int = Field(600, ge=1, description="a push over the network that takes longer is made up for later")


class RaftConfig(ConfigModel):
    """A whole alignment run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$", description="first part of the run's name")
    seed: int = Field(0, ge=0, lt=2**31, description="every random choice of the run follows from it")
    iterations: int = Field(5, ge=1, description="at most; a gate may stop earlier")
    policy: PolicyConfig
    prompts: PromptsConfig
    sampling: SamplingConfig = SamplingConfig()
    scoring: ScoringConfig
    validation: ValidationConfig = ValidationConfig()
    selection: SelectionConfig = BestOfK()
    finetuning: FinetuningConfig = FinetuningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gates: GatesConfig = GatesConfig()
    tracking: TrackingConfig = TrackingConfig()
    versioning: VersioningConfig = VersioningConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.finetuning.loss_temperature == "sampling" and self.sampling.temperature == 0:
            raise ValueError("finetuning.loss_temperature: sampling needs sampling.temperature above 0; set it to 1")
        if self.validation.min_valid_per_prompt > self.sampling.samples_per_prompt:
            raise ValueError(
                f"validation.min_valid_per_prompt {self.validation.min_valid_per_prompt} exceeds "
                f"sampling.samples_per_prompt {self.sampling.samples_per_prompt}; no prompt could pass"
            )
        return self

    @property
    def loss_temperature(self) -> float:
        """The λ that divides the logits in the loss."""
        chosen = self.finetuning.loss_temperature
        return self.sampling.temperature if chosen == "sampling" else chosen
