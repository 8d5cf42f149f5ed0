"""One committed policy: the one that iteration N of run R made, written ``R@N``."""

from dataclasses import dataclass

from raft_core.errors import InputError
from raft_core.records.run import BASE, Commit, Run, read_commit


def policy_label(iteration: int) -> str:
    """``base`` or ``iteration 3``, for a person."""
    return "base" if iteration == BASE else f"iteration {iteration}"


def policy_name(run: str, iteration: int) -> str:
    """``RUN@3`` or ``RUN@base``, as every command takes it."""
    return f"{run}@{'base' if iteration == BASE else iteration}"


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """The policy that ``iteration`` of ``run`` made, and the commit that records it. The base is iteration −1."""

    run: Run
    iteration: int
    commit: Commit

    def __str__(self) -> str:
        return policy_name(self.run.name, self.iteration)

    @property
    def label(self) -> str:
        """``base`` or ``iteration 3``, for a person."""
        return policy_label(self.iteration)

    @property
    def digest(self) -> str:
        """sha256 of the ``commit.json``."""
        return self.commit.digest

    @property
    def identity(self) -> str:
        """Identity of the weights, as the commit records it."""
        return str(self.commit.content["policy"]["identity"])

    @property
    def facts(self) -> dict[str, object]:
        """What a ledger entry writes about the policy: commit, policy, run and iteration."""
        return {"commit": self.digest, "policy": self.identity, "run": self.run.name, "iteration": self.iteration}


def policy_ref(run: Run, iteration: int) -> PolicyRef:
    """The policy that ``iteration`` of ``run`` made.

    Raises InputError if that iteration has no commit, IntegrityError if its commit was edited.
    """
    commit = read_commit(run, iteration)
    if commit is None:
        raise InputError(
            f"run {run.name} has no committed {policy_label(iteration)}",
            expected=f"an iteration with {run.folder(iteration) / 'commit.json'}",
            hint=f"raft show {run.name} lists the committed iterations",
        )
    return PolicyRef(run, iteration, commit)
