"""When a run stops."""

from typing import Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel


class LimitConfig(ConfigModel):
    """A limit on any figure of the report, including those of metrics that other packages add."""

    figure: str = Field(description="name of the figure in report.json, such as `gold_reward`")
    min: float | None = Field(None, description="smallest allowed value")
    max: float | None = Field(None, description="largest allowed value")
    relative: bool = Field(
        False,
        description="true: min and max are factors of the base policy's figure (1.1: 10 % more); no limit if that is 0",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"the limit on {self.figure} has neither min nor max; set one")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the limit on {self.figure} allows nothing: min {self.min:g} is above max {self.max:g}")
        return self


class GatesConfig(ConfigModel):
    """When a run stops early. After each iteration its measurements are compared with those of the base policy.

    If one is outside its limit, the run stops with exit code 3, and the best iteration inside all limits is kept.
    A limit set to null is not checked. For example, to let the policy move further from its start and not watch the
    length: `gates: {max_kl: 4.0, max_length_factor: null}`.
    """

    max_perplexity_rise: float | None = Field(
        0.066,
        gt=0,
        description="maximum relative rise of perplexity over the base policy (0.066 = 6.6 %); needs "
        "`evaluation.perplexity_text`; null: not checked",
    )
    max_kl: float | None = Field(
        2.0, gt=0, description="maximum KL divergence from the base policy, in nats per completion; null: not checked"
    )
    min_distinct_1: float | None = Field(
        0.85,
        gt=0,
        description="minimum ratio of distinct-1 (share of different words in the completions) to the base policy; "
        "null: not checked",
    )
    min_distinct_2: float | None = Field(
        0.9,
        gt=0,
        description="minimum ratio of distinct-2 (share of different word pairs) to the base policy; null: not checked",
    )
    max_truncation_rise: float | None = Field(
        0.15,
        gt=0,
        description="maximum rise of the share of completions cut at sampling.max_new_tokens, added to that of the "
        "base policy (0.15: from 10 % to at most 25 %); null: not checked",
    )
    max_length_factor: float | None = Field(
        2.0,
        gt=1,
        description="the mean completion length may be at most this many times that of the base policy, and at least "
        "its 1/factor; null: not checked",
    )
    min_headroom: float | None = Field(
        0.5,
        gt=0,
        description="minimum ratio of the headroom (mean of each prompt's best reward minus the mean reward) to that "
        "of the first iteration; null: not checked",
    )
    convergence_window: int | None = Field(
        3,
        ge=1,
        description="stop as converged when the held-out reward shows no significant gain over the policy this many "
        "iterations ago; null: run all iterations",
    )
    limits: tuple[LimitConfig, ...] = Field((), description="further limits, each on any figure of the report")
