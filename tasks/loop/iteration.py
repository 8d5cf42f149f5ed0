"""The context of an iteration's steps: the run, the policies, and the paths of the records."""

from dataclasses import dataclass
from pathlib import Path

from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import file_digest
from raft_core.forgetting.exclusions import RECORD
from raft_core.imports import OURS, code_digest
from raft_core.policies.base import Modality, modality
from raft_core.records.run import BASE, Run
from raft_core.types import Policy, content_id


@dataclass(frozen=True, slots=True)
class Iteration:
    """One pass of Algorithm 1: samples ``policy`` and fine-tunes it. ``base``: the initial policy p_0.

    Number −1 stands for the base, which is only evaluated.
    """

    run: Run
    number: int
    policy: Policy
    base: Policy

    @property
    def label(self) -> str:
        """The iteration in messages: "base", "iteration 3"."""
        return "base" if self.number == BASE else f"iteration {self.number}"

    @property
    def config(self) -> RaftConfig:
        """The run's configuration."""
        return self.run.config

    @property
    def runs(self) -> Path:
        """The folder of all runs, which also holds the index of finished steps."""
        return self.run.path.parent

    @property
    def folder(self) -> Path:
        """The iteration's records."""
        return self.run.folder(self.number)

    @property
    def work(self) -> Path:
        """Scratch folder of unfinished steps; deleted after the commit."""
        return self.folder / "work"

    @property
    def modality(self) -> Modality:
        """The roles of the policy's modality."""
        return modality(self.config.policy.type)

    def table(self, name: str) -> Path:
        """Path of one of the iteration's tables."""
        return self.run.table(self.number, name)

    def seed(self, purpose: str) -> int:
        """A 31-bit seed for one purpose of this iteration."""
        return derived_seed(self.config.seed, purpose, self.number)

    @property
    def sampling_code(self) -> str:
        """Digest of the modality's sampling code."""
        return "".join(map(code_digest, self.modality.sampler.CODE))

    @property
    def training_code(self) -> str:
        """Digest of the modality's training code, and of the loss."""
        loss = type(self.config.finetuning.loss).__module__
        packages = tuple(dict.fromkeys((loss.partition(".")[0], OURS)))
        return "".join([*map(code_digest, self.modality.trainer.CODE), code_digest(loss, within=packages)])


def left_out(it: Iteration) -> dict[str, str]:
    """The digest of the run's list of excluded prompts, if there is one."""
    path = it.run.path / RECORD
    return {"exclusions": file_digest(path)} if path.exists() else {}


def derived_seed(*parts: object) -> int:
    """A 31-bit seed, a function of ``parts`` only."""
    return int(content_id("seed", *parts)[:15], 16) % 2**31
