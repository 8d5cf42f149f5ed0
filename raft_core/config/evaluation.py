"""What is measured after each iteration."""

from pydantic import Field

from raft_core.config.model import ConfigModel


class EvaluationConfig(ConfigModel):
    """The scorecard on held-out prompts, the same ones every iteration."""

    perplexity_text: str | None = Field(None, description="a file of held-out texts, or example:EXAMPLE/perplexity")
    max_perplexity_texts: int = Field(256, ge=1, description="the first so many are used")
    bootstrap_resamples: int = Field(
        2000, ge=100, description="not used: no interval is resampled; older configurations set it"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of each interval")
