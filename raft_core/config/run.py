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
from raft_core.metrics.registry import figures
from raft_core.selection.best_of_k import BestOfK


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
        known = [figure.name for figure in figures(self.evaluation.metrics)]
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
