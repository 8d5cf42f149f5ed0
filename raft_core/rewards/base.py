"""What a reward is, and the table of rewards."""

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from raft_core.config import RewardConfig
from raft_core.types import Prompt


class RewardFn(Protocol):
    """A reward in memory."""

    @property
    def identity(self) -> str:
        """Digest of what decides its scores: source or weights, and settings."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One number a sample. May raise; may return NaN: the sample is then quarantined."""


REWARDS = {
    "function": "raft_core.rewards.function",
    "classifier": "raft_core.rewards.classifier",
    "linear": "raft_core.rewards.linear",
    "lexicon": "raft_core.rewards.lexicon",
}
"""``type`` → the module whose ``load(config)`` returns a RewardFn; imported on first use."""


def load_reward(config: RewardConfig) -> RewardFn:
    """Load a reward. Raises RewardError or InputError, saying what to do."""
    reward: RewardFn = import_module(REWARDS[config.type]).load(config)  # type: ignore[attr-defined]
    return reward
