"""What is measured after each iteration."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from raft_core.config.model import ConfigModel
from raft_core.metrics.base import Metric
from raft_core.metrics.registry import METRICS

FurtherMetric = Annotated[SerializeAsAny[Metric], BeforeValidator(METRICS.of_package)]


class EvaluationConfig(ConfigModel):
    """The scorecard on held-out prompts, the same ones every iteration."""

    perplexity_text: str | None = Field(None, description="a file of held-out texts, or example:EXAMPLE/perplexity")
    max_perplexity_texts: int = Field(256, ge=1, description="the first so many are used")
    bootstrap_resamples: int = Field(
        2000, ge=100, description="not used: no interval is resampled; older configurations set it"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of each interval")
    metrics: tuple[FurtherMetric, ...] = Field(
        (), description="further metrics, which installed packages provide; RAFT's own are always computed"
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        kinds = [metric.type for metric in self.metrics]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"evaluation.metrics names {', '.join(twice)} twice; remove one")
        return self
