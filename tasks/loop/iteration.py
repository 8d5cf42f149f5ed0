"""What every step of an iteration needs to know, and where its records go."""

from dataclasses import dataclass
from pathlib import Path

from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import file_digest
from raft_core.forgetting.exclusions import RECORD
from raft_core.imports import OURS, code_digest
from raft_core.policies.base import PolicyBackend, backend
from raft_core.records.run import BASE, Run
from raft_core.types import Policy, content_id


@dataclass(frozen=True, slots=True)
class Iteration:
    """One pass of Algorithm 1. ``policy`` is sampled and trained from; ``base`` is p_0.

    ``number`` −1 is the base: evaluated only.
    """

    run: Run
    number: int
    policy: Policy
    base: Policy

    @property
    def label(self) -> str:
        """What people call it."""
        return "base" if self.number == BASE else f"iteration {self.number}"

    @property
    def config(self) -> RaftConfig:
        """The run's configuration."""
        return self.run.config

    @property
    def runs(self) -> Path:
        """The folder that all runs share, and with it the index of finished steps."""
        return self.run.path.parent

    @property
    def folder(self) -> Path:
        """The iteration's records."""
        return self.run.folder(self.number)

    @property
    def work(self) -> Path:
        """Scratch of unfinished steps; removed after the commit."""
        return self.folder / "work"

    @property
    def backend(self) -> PolicyBackend:
        """The functions of the policy's modality."""
        return backend(self.config.policy.type)

    def table(self, name: str) -> Path:
        """Path of one of the iteration's tables."""
        return self.run.table(self.number, name)

    def seed(self, purpose: str) -> int:
        """A 31-bit seed for one purpose of this iteration."""
        return derived_seed(self.config.seed, purpose, self.number)

    @property
    def sampling_code(self) -> str:
        """Digest of the modality's code that samples."""
        return "".join(map(code_digest, self.backend.SAMPLING))

    @property
    def training_code(self) -> str:
        """Digest of the modality's code that fine-tunes, and of the loss."""
        loss = type(self.config.finetuning.loss).__module__
        packages = tuple(dict.fromkeys((loss.partition(".")[0], OURS)))
        return "".join([*map(code_digest, self.backend.TRAINING), code_digest(loss, within=packages)])


def left_out(it: Iteration) -> dict[str, str]:
    """The digest of the run's list of excluded prompts, where it has one."""
    path = it.run.path / RECORD
    return {"exclusions": file_digest(path)} if path.exists() else {}


def derived_seed(*parts: object) -> int:
    """A 31-bit seed that depends on ``parts`` alone."""
    return int(content_id("seed", *parts)[:15], 16) % 2**31
