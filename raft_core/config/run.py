"""The whole configuration of a run."""

from difflib import get_close_matches
from typing import Self

from pydantic import Field, model_validator

from raft_core.config.evaluation import EvaluationConfig
from raft_core.config.execution import ExecutionConfig
from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.gates import GatesConfig
from raft_core.config.model import ConfigModel
from raft_core.config.policy import PolicyConfig
from raft_core.config.prompts import PromptsConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.config.scoring import ScoringConfig
from raft_core.config.selection import SelectionConfig
from raft_core.config.tracking import TrackingConfig, VersioningConfig
from raft_core.config.validation import ValidationConfig
from raft_core.metrics.registry import own
from raft_core.selection.best_of_k import BestOfK


class RaftConfig(ConfigModel):
    """A configuration describes one alignment run. Four keys are required; everything else has a tested default.

    The smallest file that aligns a model of your own: `name: mine`, `policy: {model: models/mine}`,
    `prompts: {train: prompts.jsonl}` and
    `scoring: {rewards: [{type: function, function: my_reward.py:score}]}`, each on a line of its own.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$",
        description="a name of your choice; a run is called NAME and 8 characters that identify the settings",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random choice; the same seed repeats the same run")
    iterations: int = Field(
        5,
        ge=1,
        description="maximum number of rounds of sampling, scoring and training; `gates` may stop the run earlier",
    )
    policy: PolicyConfig = Field(
        description="the model to align; its `type` may be left out: without it, it is `text`, a language model"
    )
    prompts: PromptsConfig = Field(description="the prompts to train on and to evaluate on")
    sampling: SamplingConfig = Field(SamplingConfig(), description="how completions are sampled")
    scoring: ScoringConfig = Field(description="the rewards that rank completions")
    validation: ValidationConfig = Field(
        ValidationConfig(), description="limits that samples and rewards must keep; otherwise the run stops"
    )
    selection: SelectionConfig = Field(BestOfK(), description="the rule that picks which completions are trained on")
    finetuning: FinetuningConfig = Field(FinetuningConfig(), description="how the policy is trained on them")
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="how the policy is measured after each iteration"
    )
    gates: GatesConfig = Field(GatesConfig(), description="limits on these measurements; otherwise the run stops")
    tracking: TrackingConfig = Field(TrackingConfig(), description="how the run appears in MLflow")
    versioning: VersioningConfig = Field(VersioningConfig(), description="how the run is versioned with DVC")
    execution: ExecutionConfig = Field(
        ExecutionConfig(), description="whether sampling and scoring run in this process or on a Ray cluster"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.finetuning.loss_temperature == "sampling" and self.sampling.temperature == 0:
            raise ValueError(
                "finetuning.loss_temperature: sampling needs sampling.temperature above 0; "
                "set finetuning.loss_temperature: 1.0"
            )
        if self.validation.min_valid_per_prompt > self.sampling.samples_per_prompt:
            raise ValueError(
                f"validation.min_valid_per_prompt {self.validation.min_valid_per_prompt} exceeds "
                f"sampling.samples_per_prompt {self.sampling.samples_per_prompt}, so no prompt could pass; "
                "lower the first or raise the second"
            )
        every = [*own(), *self.evaluation.metrics]
        known = [f"{figure.name}{end}" for metric in every for figure in metric.figures for end in figure.ends]
        if twice := sorted({name for name in known if known.count(name) > 1}):
            raise ValueError(f"evaluation.metrics: two metrics report {', '.join(twice)}; remove one of them")
        of_batch = [
            f"{f.name}{end}" for metric in every if metric.needs_batch for f in metric.figures for end in f.ends
        ]
        if never := [limit.figure for limit in self.gates.limits if limit.relative and limit.figure in of_batch]:
            raise ValueError(
                f"gates.limits: {never[0]} is a figure of the training batch, which the base policy does not have; "
                "set relative: false"
            )
        if unknown := [limit.figure for limit in self.gates.limits if limit.figure not in known]:
            close = get_close_matches(unknown[0], known, 1)
            meant = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise ValueError(f"gates.limits: no metric reports a figure called {unknown[0]}; {meant}")
        return self

    @property
    def loss_temperature(self) -> float:
        """The λ that divides the logits in the loss."""
        chosen = self.finetuning.loss_temperature
        return self.sampling.temperature if chosen == "sampling" else chosen
