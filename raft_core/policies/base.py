"""What a policy backend must do: one folder a modality, looked up in ``BACKENDS`` by ``policy.type``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.policy import PolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.types import Policy, Progress, Prompt, Sample


class LoadedPolicy(Protocol):
    """A policy in memory, ready to be sampled and to score text. Freed by dropping it."""

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

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> list[list[float]]:
        """log p of every completion token of each sample under this policy at λ = ``temperature``."""

    def text_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        """log p of every token but the first of each text (λ = 1); for perplexity."""


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
    """Where checkpoints inside the training lie, for another attempt at the same; None: none are written."""
    resume_from: Path | None = None
    """One of them, its bytes checked."""


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a fine-tuning reports. ``log``: one {step, loss, learning_rate, grad_norm} an optimiser step.

    ``trained``: {modules, parameters, total_parameters, share, untouched}; of an older run it is empty.
    """

    num_sequences: int
    num_tokens: int
    log: list[dict[str, float]] = field(default_factory=list)
    trained: dict[str, Any] = field(default_factory=dict)


class PolicyBackend(Protocol):
    """The functions of a modality."""

    SAMPLING: tuple[str, ...]
    TRAINING: tuple[str, ...]
    """The modules that sample and score likelihoods, and those that fine-tune: their code, and all that it imports, is
    a part of those steps' keys, and of no other's."""

    def check(self, config: PolicyConfig, prompts: Sequence[Prompt], sampling: SamplingConfig) -> Sequence[str]:
        """Find what cannot work before weights load: folder, tokenizer, template, context length.

        Returns what works, but a person should know before anything is sampled. Raises InputError or ConfigError.
        """

    def asks_for_date(self, config: PolicyConfig) -> bool:
        """Whether prompts are rendered with today's date, and the configuration fixes none. Raises InputError."""

    def probe(self, policy: Policy, config: PolicyConfig, finetuning: FinetuningConfig) -> None:
        """Load ``policy`` once and try whether it can be sampled and trained as configured, on a few tokens.

        Raises InputError, which names the architecture.
        """

    def base_policy(self, config: PolicyConfig, known: str | None = None) -> Policy:
        """The initial policy p_0 that ``config.model`` names, hashed: what of its folder a load can read.

        ``known``: the digest that a run recorded; it stays where an older version took the whole folder in.
        """

    def load(self, policy: Policy, config: PolicyConfig, *, dtype: str) -> LoadedPolicy:
        """Load for sampling in ``dtype``, without rounding a trained update away."""

    def numerics(self, dtype: str) -> dict[str, Any]:
        """The determinism fingerprint: device, threads, dtype and library versions that decide the last bits."""

    def finetune(self, job: FinetuneJob) -> FinetuneResult:
        """Fine-tune (a large model in child processes) and leave the next policy in ``job.out``."""

    def merge(self, policy: Policy, config: PolicyConfig, out: Path) -> None:
        """Write a plain checkpoint (base and adapter in one) to ``out``."""


BACKENDS = {"text": "raft_core.policies.text.backend", "tabular": "raft_core.policies.tabular.backend"}
"""``policy.type`` → the module that holds its functions; imported on first use, since torch is heavy."""


def backend(kind: str) -> PolicyBackend:
    """The backend of a modality."""
    return cast(PolicyBackend, import_module(BACKENDS[kind]))
