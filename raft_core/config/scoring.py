"""The rewards that select, and the gold rewards that only watch."""

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
    """The rewards that select, and the gold rewards that only watch."""

    rewards: tuple[AnyRewardConfig, ...] = Field(min_length=1, description="their weighted sum ranks the candidates")
    gold: tuple[AnyRewardConfig, ...] = Field((), description="told in every evaluation, never seen by selection")
    max_failed_share: Share = Field(0.05, description="the run stops when more samples than this cannot be scored")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [reward_name(r) for r in (*self.rewards, *self.gold)]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two rewards are called {', '.join(twice)}; give each its own name")
        return self
