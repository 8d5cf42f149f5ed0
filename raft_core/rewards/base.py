"""What a reward is, and the table of rewards."""

from collections.abc import Sequence
from importlib import import_module
from typing import Literal, Protocol

from raft_core.config.scoring import RewardConfig
from raft_core.records.artifacts import json_digest
from raft_core.records.steps import code_digest
from raft_core.types import Prompt

ScoredText = Literal["completion", "prompt_and_completion"]


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
    """Load a reward. Raises RewardError, InputError or ConfigError, saying what to do."""
    reward: RewardFn = import_module(REWARDS[config.type]).load(config)  # type: ignore[attr-defined]
    return reward


def reward_identity(config: RewardConfig, source: str) -> str:
    """Digest of what decides a reward's scores: settings, the code that runs it, digest ``source``.

    Name and weight do not touch a component's score, and where the source lies does not either.
    """
    settings = config.model_dump(mode="json", exclude={"name", "weight", "model", "function", "file", "files"})
    return json_digest([settings, code_digest(REWARDS[settings["type"]]), source])


def texts(which: ScoredText, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[str]:
    """What a model reads: each completion, or prompt and completion as one plain concatenation."""
    if which == "completion":
        return list(completions)
    return [prompt.text + completion for prompt, completion in zip(prompts, completions, strict=True)]
