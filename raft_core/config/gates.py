"""When a run stops."""

from typing import Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel


class LimitConfig(ConfigModel):
    """A limit on any figure of the report, also one of a metric that another package brought."""

    figure: str = Field(description="name of the figure in report.json, such as `gold_reward`")
    min: float | None = Field(None, description="smallest allowed value")
    max: float | None = Field(None, description="largest allowed value")
    relative: bool = Field(False, description="true: min and max are factors of the base policy's figure")

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"the limit on {self.figure} has neither min nor max; set one")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the limit on {self.figure} allows nothing: min {self.min:g} is above max {self.max:g}")
        return self


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
    limits: tuple[LimitConfig, ...] = Field((), description="further limits, on any figure of the report")
