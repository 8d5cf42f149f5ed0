"""What a reward is, and the table of rewards."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from raft_core.config.scoring import RewardConfig, ScoredText
from raft_core.errors import ConfigError, InputError, IntegrityError
from raft_core.records.artifacts import digest_of, json_digest
from raft_core.records.steps import code_digest
from raft_core.rewards.returned import Failure
from raft_core.types import Prompt


class RewardFn(Protocol):
    """A reward in memory."""

    @property
    def identity(self) -> str:
        """Digest of what decides its scores: source or weights, and settings."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The user's part of it: file, folder or module → sha256 of what was loaded."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float | Failure]:
        """One number a sample. May raise; may return NaN or a Failure: the sample is then quarantined."""


REWARDS = {
    "function": "raft_core.rewards.function",
    "lexicon": "raft_core.rewards.lexicon",
    "linear": "raft_core.rewards.linear",
    "classifier": "raft_core.rewards.classifier",
}
"""``type`` → the module whose ``load(config)`` returns a RewardFn; imported on first use.

In the order in which rewards are loaded: the cheap ones first, so that their faults are found in seconds.
"""


def load_reward(config: RewardConfig, *, weights: bool = True) -> RewardFn:
    """Load a reward. Raises InputError or ConfigError, saying what to do.

    Without ``weights`` a large model is only looked at, and cannot score.
    """
    module = import_module(reward_module(config))
    load = module.load if weights else getattr(module, "load_without_weights", module.load)
    reward: RewardFn = load(config)
    return reward


def reward_module(config: RewardConfig) -> str:
    """The module that loads rewards of this type. Raises ConfigError for a type that the table does not have."""
    kind = str(getattr(config, "type", type(config).__name__))
    if kind not in REWARDS:
        raise ConfigError(
            f"no rewards of type {kind}",
            expected=f"one of {', '.join(REWARDS)}",
            do="correct `type` of the reward; a new type needs a line in raft_core.rewards.base.REWARDS",
        )
    return REWARDS[kind]


def digest_of_named(path: Path, key: str) -> str:
    """Digest of a file or folder that ``key`` of a reward names. Raises InputError where it cannot be read."""
    if not path.exists():
        raise InputError(
            f"a file of the reward is missing: {path}",
            do=f"correct `{key}` of the reward; it is relative to the current folder",
        )
    if not path.is_file() and not path.is_dir():
        raise InputError(f"neither a file nor a folder: {path}", do=f"correct `{key}` of the reward")
    try:
        return digest_of(path)
    except IntegrityError as error:
        raise InputError(error.what, do=error.do) from None
    except OSError as error:
        raise InputError(
            f"a file of the reward cannot be read: {path}", got=error.strerror, do="make it readable"
        ) from None


def reward_identity(config: RewardConfig, source: str) -> str:
    """Digest of what decides a reward's scores: settings, the code that runs it, digest ``source``.

    Name and weight do not touch a component's score, and where the source lies does not either.
    """
    settings = config.model_dump(mode="json", exclude={"name", "weight", "model", "function", "file", "files"})
    return json_digest([settings, code_digest(reward_module(config)), source])


def texts(which: ScoredText, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[str]:
    """What a model reads: each completion, or prompt and completion as one plain concatenation."""
    if which == "completion":
        return list(completions)
    return [prompt.text + completion for prompt, completion in zip(prompts, completions, strict=True)]
