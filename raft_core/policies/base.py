"""What a policy backend must do: one folder per modality, looked up in ``BACKENDS`` by ``policy.type``."""

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


class PolicyBackend(Protocol):
    """The functions of a modality."""

    SAMPLING: tuple[str, ...]
    TRAINING: tuple[str, ...]
    """The modules that sample and compute likelihoods, and those that fine-tune. Their code and everything it imports
    is part of the keys of these steps, and of no other step."""

    def check(self, config: PolicyConfig, prompts: Sequence[Prompt], sampling: SamplingConfig) -> Sequence[str]:
        """Find out without loading weights what cannot work: folder, tokenizer, template, context length.

        Returns warnings: what works, but should be known before sampling. Raises InputError or ConfigError.
        """

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

    def load(self, policy: Policy, config: PolicyConfig, *, dtype: str) -> LoadedPolicy:
        """Load for sampling in ``dtype``, in such a way that rounding does not lose the trained update."""

    def numerics(self, dtype: str) -> dict[str, Any]:
        """The determinism fingerprint: device, threads, dtype and library versions that decide the last bits."""

    def finetune(self, job: FinetuneJob) -> FinetuneResult:
        """Fine-tune (a large model in child processes) and write the next policy to ``job.out``."""

    def merge(self, policy: Policy, config: PolicyConfig, out: Path) -> None:
        """Write a plain checkpoint (base and adapter in one) to ``out``."""


BACKENDS = {"text": "raft_core.policies.text.backend", "tabular": "raft_core.policies.tabular.backend"}
"""``policy.type`` → the module that holds its functions; imported on first use, since torch is heavy."""


def backend(kind: str) -> PolicyBackend:
    """The backend of a modality."""
    return cast(PolicyBackend, import_module(BACKENDS[kind]))
