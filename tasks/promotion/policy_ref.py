"""A model that stands for promotion, or holds the title: its records verified, its weights at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raft_core.audit.lineage import policy_facts
from raft_core.audit.verification import unordered_erasures, verify_run
from raft_core.errors import InputError, IntegrityError
from raft_core.promotion.ledger import Entry
from raft_core.records.run import BASE, Commit, Run, read_commit
from raft_core.types import Policy
from tasks.loop.prepare import committed_policy, initial_policy
from tasks.versioning.pointers import restore


@dataclass(frozen=True, slots=True)
class Contender:
    """One committed policy of a run, and the base that its KL is measured against."""

    run: Run
    iteration: int
    commit: Commit
    policy: Policy
    base: Policy

    @property
    def identity(self) -> str:
        """Identity of the weights, as the commit has it."""
        return policy_facts(self.commit.content).identity

    @property
    def named(self) -> dict[str, object]:
        """How the ledger names it."""
        return {
            "commit": self.commit.digest,
            "policy": self.identity,
            "run": self.run.name,
            "iteration": self.iteration,
        }


def committed(run: Run, iteration: int) -> Commit:
    """The commit of an iteration. Raises InputError if there is none."""
    commit = read_commit(run, iteration)
    if commit is None:
        raise InputError(
            f"run {run.name} has no iteration {iteration}", hint=f"raft show {run.name} lists what is committed"
        )
    return commit


def contender(run: Run, iteration: int, workspace: Path, entries: Sequence[Entry]) -> Contender:
    """Bring the weights here if they lie elsewhere, and verify every byte that they come from.

    ``entries``: of the ledger, which knows every erasure.

    Raises IntegrityError if the chain up to ``iteration`` does not hold, StepError if the weights
    cannot be had.
    """
    commit = committed(run, iteration)
    fetch_weights(run, iteration, workspace)
    base = initial_policy(run)
    _verify(run, iteration, base.path, entries)
    return Contender(run, iteration, commit, committed_policy(run, iteration, base), base)


def fetch_weights(run: Run, iteration: int, workspace: Path) -> None:
    """Restore the weights of an iteration from DVC's cache or remote, unless they are here. Raises StepError."""
    weights = run.folder(iteration) / "policy"
    pointer = weights.with_name("policy.dvc")
    if iteration != BASE and not weights.exists() and pointer.exists():
        restore(pointer, workspace)


def _verify(run: Run, iteration: int, base: Path, entries: Sequence[Entry]) -> None:
    """What made the policy must be here and as it was; weights of other iterations may lie elsewhere."""
    found = verify_run(run, rehash=True, base_policy=base)
    problems = [
        problem.message
        for problem in (*found.problems, *unordered_erasures(run, entries))
        if problem.iteration is None or problem.iteration <= iteration
    ]
    others = [n for n in range(found.num_commits) if n != iteration]
    may_be_away = tuple(f"{path} " for n in others for path in _may_be_away(run, n, iteration))
    unseen = [text for text in found.unseen if not text.startswith(may_be_away)]
    if problems or unseen:
        raise IntegrityError(
            f"run {run.name} does not verify up to iteration {iteration}: an unverified model is not promoted",
            got="; ".join([*problems, *(f"not here: {text}" for text in unseen)][:3]),
            hint=f"raft lineage verify {run.name}; restore what it names (dvc pull), then ask again",
        )


def _may_be_away(run: Run, number: int, iteration: int) -> list[Path]:
    """Weights of other iterations; and every output of later ones."""
    folder = run.folder(number)
    commit = read_commit(run, number) if number > iteration else None
    return [folder / name for name in (commit.outputs if commit else ["policy"])]
