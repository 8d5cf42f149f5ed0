"""What is measured after each iteration."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from raft_core.config.model import ConfigModel
from raft_core.metrics.base import Metric
from raft_core.metrics.registry import METRICS

FurtherMetric = Annotated[SerializeAsAny[Metric], BeforeValidator(METRICS.of_package)]


class EvaluationConfig(ConfigModel):
    """How the policy is measured after each iteration: on the same held-out prompts every time (see `prompts`).

    For example `evaluation: {perplexity_text: texts.txt}`. Without `perplexity_text` no perplexity is measured, and
    `gates.max_perplexity_rise` has no effect.
    """

    perplexity_text: str | None = Field(
        None,
        description="file of texts that the policy should still model well after alignment, not used for training: "
        "`.txt` with one text per line, or any format of `prompts.train` with a column `text`; or "
        "`example:EXAMPLE/perplexity`; null: perplexity is not measured",
    )
    max_perplexity_texts: int = Field(
        256, ge=1, description="number of texts that are used, from the start of the file"
    )
    bootstrap_resamples: int = Field(
        2000, ge=100, description="has no effect; accepted because older configurations set it"
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="confidence level of every reported interval; 0.95 is a 95 % interval"
    )
    metrics: tuple[FurtherMetric, ...] = Field(
        (), description="further metrics, from installed packages; RAFT's own are always computed"
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        kinds = [metric.type for metric in self.metrics]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"evaluation.metrics names {', '.join(twice)} twice; remove one")
        return self
