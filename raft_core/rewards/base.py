"""What a reward is.

A reward of your own is a Python function (``type: function``) or, with settings of its own, a subclass of
``RewardConfig`` in one file, plus one line: in ``raft_core.rewards.registry``, or in an installed package an entry
point of the group ``raft.rewards`` (``raft_core.plugins``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Field

from raft_core.config.model import ConfigModel
from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import digest_of, json_digest
from raft_core.imports import OURS, code_digest
from raft_core.rewards.returned import Failure
from raft_core.types import Prompt


class RewardFn(Protocol):
    """A reward in memory.

    Two attributes are optional. ``verify()`` is called after the last batch: it raises RewardError where what the
    reward reads no longer matches ``identity``. ``needs_references``: True where the reward cannot score a
    prompt without a reference; such a run is refused before it samples.
    """

    @property
    def identity(self) -> str:
        """Digest of what decides its scores: source or weights, and settings."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The user's part of it: file, folder or module → sha256 of what was loaded."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float | Failure]:
        """One number per sample. May raise; may return NaN or a Failure: the sample is then quarantined."""


@dataclass(frozen=True, slots=True)
class PlainReward:
    """A reward made of a function ``(prompts, completions) -> numbers`` and nothing else. See ``RewardFn``."""

    identity: str
    function: Callable[[Sequence[Prompt], Sequence[str]], Sequence[float | Failure]]
    sources: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float | Failure]:
        """What the function returns."""
        return self.function(prompts, completions)


ScoredText = Annotated[Literal["completion", "prompt_and_completion"], Field(description="what the reward reads")]


class RewardConfig(ConfigModel, ABC):
    """What every reward has: a name (the column of its scores) and a weight in the sum. Subclasses set ``type``."""

    name: str = Field(
        "", pattern=r"^[A-Za-z0-9_\-]*$", description="name of its scores in tables and reports; default: its type"
    )
    weight: float = Field(
        1.0, description="its score is multiplied by this before the rewards are added; may be negative"
    )
    type: str

    loads_weights: ClassVar[bool] = False
    """Whether ``load`` takes long: such rewards are loaded last, so that the faults of others are found in seconds."""

    @abstractmethod
    def load(self, *, weights: bool = True) -> RewardFn:
        """The reward in memory. Raises InputError or ConfigError, saying what to do.

        Without ``weights`` a large model is only checked, and cannot score.
        """

    @property
    def reference(self) -> str:
        """What the audit's page calls it: the model, file or function that it names."""
        named = (getattr(self, key, None) for key in ("model", "file", "function"))
        return next((str(name) for name in named if name), f"a reward of type {self.type}")


def reward_name(config: RewardConfig) -> str:
    """The column name of a reward's scores."""
    return config.name or config.type


def digest_of_named(path: Path, key: str) -> str:
    """Digest of a file or folder that ``key`` of a reward names. Raises InputError where it cannot be read."""
    if not path.exists():
        raise InputError(
            f"a file of the reward is missing: {path}",
            hint=f"correct `{key}` of the reward; a relative path starts at the current directory",
        )
    if not path.is_file() and not path.is_dir():
        raise InputError(f"neither a file nor a folder: {path}", hint=f"correct `{key}` of the reward")
    try:
        return digest_of(path)
    except IntegrityError as error:
        raise InputError(error.what, hint=error.hint) from None
    except OSError as error:
        raise InputError(
            f"a file of the reward cannot be read: {path}", got=error.strerror, hint="make it readable"
        ) from None


def reward_identity(config: RewardConfig, source: str = "") -> str:
    """Digest of what decides a reward's scores: settings, the code that runs it, digest ``source`` of what it reads.

    Name and weight do not touch a component's score, and where the source lies does not either.
    """
    settings = config.model_dump(mode="json", exclude={"name", "weight", "model", "function", "file", "files"})
    module = type(config).__module__
    packages = tuple(dict.fromkeys((module.partition(".")[0], OURS)))
    return json_digest([settings, code_digest(module, within=packages), source])


def texts(which: ScoredText, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[str]:
    """What a model reads: each completion, or prompt and completion as one plain concatenation."""
    if which == "completion":
        return list(completions)
    return [prompt.text + completion for prompt, completion in zip(prompts, completions, strict=True)]
