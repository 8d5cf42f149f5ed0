"""When a run stops."""

from pydantic import Field

from raft_core.config.model import ConfigModel


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
