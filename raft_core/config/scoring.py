"""The rewards that rank the candidates, and the gold rewards that are only reported."""

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from raft_core.config.model import ConfigModel, Share
from raft_core.rewards.base import RewardConfig, reward_name
from raft_core.rewards.registry import REWARDS

if TYPE_CHECKING:
    AnyRewardConfig = RewardConfig
else:
    AnyRewardConfig = REWARDS.union()


class ScoringConfig(ConfigModel):
    """How completions are scored: the rewards that rank the candidates, and gold rewards that are only reported.

    Each reward, gold ones too, has a `type`; its keys are in the section of that type below. For example
    `scoring: {rewards: [{type: function, function: my_reward.py:score}]}`. `docs/rewards.md` shows one of each type.
    """

    rewards: tuple[AnyRewardConfig, ...] = Field(
        min_length=1, description="rewards whose weighted sum ranks the candidates"
    )
    gold: tuple[AnyRewardConfig, ...] = Field(
        (),
        description="rewards that are measured on the held-out prompts and never used for selection; a gold reward "
        "that falls while the reward rises shows that the reward is being exploited",
    )
    max_failed_share: Share = Field(
        0.05,
        description="the run stops when more than this share of the samples cannot be scored (0.05 = 5 %); such "
        "samples are quarantined",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [reward_name(r) for r in (*self.rewards, *self.gold)]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"more than one reward is called {', '.join(twice)}; give each a `name` of its own")
        return self
