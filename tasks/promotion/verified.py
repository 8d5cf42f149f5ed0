"""A committed policy whose weights are here and whose every byte is verified, ready for a promotion."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raft_core.audit.verification import unordered_erasures, verify_run
from raft_core.errors import IntegrityError
from raft_core.promotion.ledger import Entry
from raft_core.records.policy_ref import PolicyRef
from raft_core.records.run import BASE, Run, read_commit
from raft_core.types import Policy
from tasks.loop.prepare import committed_policy, initial_policy
from tasks.versioning.pointers import restore

SHOWN_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class VerifiedPolicy:
    """A committed policy, its weights, and the base that its KL is measured against."""

    ref: PolicyRef
    policy: Policy
    base: Policy

    @property
    def run(self) -> Run:
        """The run that made it."""
        return self.ref.run


def verified_policy(ref: PolicyRef, workspace: Path, entries: Sequence[Entry]) -> VerifiedPolicy:
    """Restore the weights of ``ref`` if they are not on this machine, then verify every byte that they were made from.

    ``entries`` of the ledger name every erasure on purpose.

    Raises IntegrityError if the chain up to the iteration does not verify, StepError if the weights cannot be
    restored.
    """
    fetch_weights(ref, workspace)
    base = initial_policy(ref.run)
    _verify(ref, base.path, entries)
    return VerifiedPolicy(ref, committed_policy(ref.run, ref.iteration, base), base)


def fetch_weights(ref: PolicyRef, workspace: Path) -> None:
    """Restore the weights of ``ref`` from DVC's cache or remote if they are not here. Raises StepError."""
    weights = ref.run.folder(ref.iteration) / "policy"
    pointer = weights.with_name("policy.dvc")
    if ref.iteration != BASE and not weights.exists() and pointer.exists():
        restore(pointer, workspace)


def _verify(ref: PolicyRef, base: Path, entries: Sequence[Entry]) -> None:
    """Everything that made the policy must be here and unchanged; weights of other iterations may be absent."""
    found = verify_run(ref.run, rehash=True, base_policy=base)
    problems = [
        problem.message
        for problem in (*found.problems, *unordered_erasures(ref.run, entries))
        if problem.iteration is None or problem.iteration <= ref.iteration
    ]
    others = [n for n in range(found.num_commits) if n != ref.iteration]
    optional = tuple(f"{path} " for n in others for path in _optional_outputs(ref, n))
    unseen = [text for text in found.unseen if not text.startswith(optional)]
    if problems or unseen:
        raise IntegrityError(
            f"{ref} does not verify, and a model that does not verify is not promoted",
            got="; ".join([*problems, *(f"not on this machine: {text}" for text in unseen)][:SHOWN_PROBLEMS]),
            expected=f"every file that run {ref.run.name} recorded up to {ref.label}, unchanged",
            hint=f"raft lineage verify {ref.run.name}; restore what it names (dvc pull), then run this command again",
        )


def _optional_outputs(ref: PolicyRef, number: int) -> list[Path]:
    """What may be absent of iteration ``number``: its weights, and of a later iteration every output."""
    folder = ref.run.folder(number)
    commit = read_commit(ref.run, number) if number > ref.iteration else None
    return [folder / name for name in (commit.outputs if commit else ["policy"])]
