"""What a modality must do, in four roles: sample, score, train, and know its checkpoints. One folder per modality."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.policy import PolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.types import Policy, Progress, Prompt, Sample

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig


class OpenSampler(Protocol):
    """A policy that an engine has opened to sample from it."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        *,
        samples_per_prompt: int,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Sample]:
        """``samples_per_prompt`` samples of each prompt, ordered by prompt, then k, decoded as one batch.

        Each sample has its own random stream, so only the batch's shape can touch the last bits.
        Raises MemoryError when the batch does not fit (whatever the device calls it).
        """


class OpenLikelihood(Protocol):
    """A policy that has been opened to score text."""

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> list[list[float]]:
        """log p of every completion token of each sample under this policy at λ = ``temperature``."""

    def text_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        """log p of every token but the first of each text (λ = 1); for perplexity."""


class LoadedPolicy(OpenSampler, OpenLikelihood, Protocol):
    """A policy that samples and scores text."""


@dataclass(frozen=True, slots=True)
class FinetuneJob:
    """One fine-tuning; picklable, since it runs in a child process.

    ``selected`` is a SELECTED table. ``out`` must not exist; it appears whole, by a rename.
    ``scratch`` is this attempt's own folder.
    """

    policy: Policy
    config: PolicyConfig
    finetuning: FinetuningConfig
    selected: Path
    loss_temperature: float
    seed: int
    iteration: int
    iterations: int
    out: Path
    scratch: Path
    children_lock: Path | None = None
    """Every training process holds this file's flock, shared, for as long as it lives."""
    checkpoints: Path | None = None
    """Folder of the checkpoints inside this training, from which a new attempt continues; None: write none."""
    resume_from: Path | None = None
    """The checkpoint to continue from, its bytes already checked."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a fine-tuning reports. ``log``: one {step, loss, learning_rate, grad_norm} per optimizer step.

    ``trained``: {modules, parameters, total_parameters, share, untouched}; empty for runs of older versions.
    """

    num_sequences: int
    num_tokens: int
    log: list[dict[str, float]] = field(default_factory=list)
    trained: dict[str, Any] = field(default_factory=dict)


class Sampler(Protocol):
    """An engine that samples: it may be a model in memory, or a process that is started and ended."""

    CODE: tuple[str, ...]
    """The modules that decide what is sampled. Their code and everything it imports is part of the step's key."""

    def open(self, policy: Policy, config: PolicyConfig, *, dtype: str) -> AbstractContextManager[OpenSampler]:
        """Open ``policy`` for sampling in ``dtype``, in such a way that rounding does not lose the trained update.

        The memory (or process) is given back when the context ends and nobody holds what it gave.
        """


class Likelihood(Protocol):
    """Scores text under a policy. An engine that samples may be one as well."""

    CODE: tuple[str, ...]

    def open(self, policy: Policy, config: PolicyConfig, *, dtype: str) -> AbstractContextManager[OpenLikelihood]:
        """Open ``policy`` for scoring in ``dtype``."""


class Trainer(Protocol):
    """Fine-tunes."""

    CODE: tuple[str, ...]
    """The modules that train, as ``Sampler.CODE``."""
    PRELOAD: tuple[str, ...]
    """Modules that training processes import, loaded while sampling runs; none: it trains in this process."""

    def fit(self, job: FinetuneJob) -> FinetuneResult:
        """Fine-tune (a large model in child processes) and write the next policy to ``job.out``."""


class Checkpoint(Protocol):
    """What a modality knows of its policies on disk, without sampling from them."""

    def check(self, config: PolicyConfig, prompts: Sequence[Prompt], sampling: SamplingConfig) -> Sequence[str]:
        """Find out without loading weights what cannot work: folder, tokenizer, template, context length.

        Returns warnings: what works, but should be known before sampling. Raises InputError or ConfigError.
        """

    def check_settings(self, config: "RaftConfig") -> None:
        """Raise ConfigError for settings of the other sections that this modality cannot follow."""

    def asks_for_date(self, config: PolicyConfig) -> bool:
        """Whether prompts are rendered with today's date, and the configuration fixes none. Raises InputError."""

    def probe(self, policy: Policy, config: PolicyConfig, finetuning: FinetuningConfig) -> None:
        """Load ``policy`` once and try on a few tokens whether it can be sampled and trained as configured.

        Raises InputError that names the architecture.
        """

    def base_policy(self, config: PolicyConfig, known: str | None = None) -> Policy:
        """The initial policy p_0 that ``config.model`` names, with the digest of the files that loading it reads.

        ``known``: the digest that a run recorded; it is kept if an older version computed it from the whole folder.
        """

    def numerics(self, dtype: str) -> dict[str, Any]:
        """The determinism fingerprint: device, threads, dtype and library versions that decide the last bits."""

    def merge(self, policy: Policy, config: PolicyConfig, out: Path) -> None:
        """Write a plain checkpoint (base and adapter in one) to ``out``."""


@dataclass(frozen=True, slots=True)
class Modality:
    """The four roles of a modality, each a module by name: imported on first use, since torch is heavy."""

    sampling: str
    likelihoods: str
    training: str
    checkpoints: str

    @property
    def sampler(self) -> Sampler:
        """The engine that samples."""
        return cast(Sampler, import_module(self.sampling))

    @property
    def likelihood(self) -> Likelihood:
        """What scores text."""
        return cast(Likelihood, import_module(self.likelihoods))

    @property
    def trainer(self) -> Trainer:
        """What fine-tunes."""
        return cast(Trainer, import_module(self.training))

    @property
    def checkpoint(self) -> Checkpoint:
        """What is known of policies on disk."""
        return cast(Checkpoint, import_module(self.checkpoints))

    @contextmanager
    def open(self, policy: Policy, config: PolicyConfig, *, dtype: str) -> Iterator[LoadedPolicy]:
        """``policy``, to sample and to score: opened once where one engine does both."""
        with self.sampler.open(policy, config, dtype=dtype) as sampler:
            if self.sampling == self.likelihoods:
                yield cast(LoadedPolicy, sampler)
                return
            with self.likelihood.open(policy, config, dtype=dtype) as likelihood:
                yield _Both(sampler, likelihood)


class _Both:
    """A policy that one engine samples and another scores."""

    def __init__(self, sampler: OpenSampler, likelihood: OpenLikelihood) -> None:
        self.sample = sampler.sample
        self.logprobs, self.text_logprobs = likelihood.logprobs, likelihood.text_logprobs


_TRANSFORMERS = "raft_core.policies.text.engines.transformers"
_TABULAR = "raft_core.policies.tabular.backend"
MODALITIES: Mapping[str, Modality] = {
    "text": Modality(
        _TRANSFORMERS, _TRANSFORMERS, "raft_core.policies.text.finetune", "raft_core.policies.text.backend"
    ),
    "tabular": Modality(_TABULAR, _TABULAR, _TABULAR, _TABULAR),
}
"""``policy.type`` → its roles."""


def modality(kind: str) -> Modality:
    """The roles of a modality."""
    return MODALITIES[kind]
