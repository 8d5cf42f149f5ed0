"""The aliases that forgetting takes from models, and what is left to do afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.forgetting.forget import Plan
from raft_core.forgetting.exclusions import FILE
from raft_core.promotion.ledger import Champions, Entry, FileLedger, Ledger, current
from tasks.tracking.registry import model_name, numbers

NOT_ERASED = (
    "DVC remotes that are not folders, except the default one",
    "backups, and older object versions that a bucket keeps",
    "backups and logs of a Prefect server: its API only empties parameters",
    "Prefect servers other than the one in PREFECT_API_URL, and databases under another PREFECT_HOME",
    "folders that raft pull, raft merge or raft lineage checkout wrote",
    "other clones of this workspace, and their DVC caches",
    "weights: a model is withdrawn, but it does not unlearn",
)
"""What an erasure never covers."""

PolicyAliases = Mapping[tuple[str, int], Sequence[str]]
"""(run, iteration) → its aliases: champion, previous, candidate, or one that somebody set in MLflow."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """``champions``: of every registered model that lost a version or a champion.

    ``to_commit``: paths in the workspace, for ``git add``.
    """

    champions: Mapping[str, Champions]
    to_commit: tuple[str, ...]


def policy_aliases(chosen: Plan, entries: Sequence[Entry], tracking_uri: str) -> PolicyAliases:
    """Aliases of the models of ``chosen`` in the ledger and in MLflow. Raises StepError if MLflow cannot be reached."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in model_names(chosen):
        champions = current(entries, name)
        for alias, named in (("champion", champions.champion), ("previous", champions.previous)):
            if named is not None:
                found.setdefault((named.run, named.iteration), []).append(alias)
    for name in sorted({version.name for version in chosen.versions}):
        known = numbers(name, tracking_uri)
        for alias, number in known.aliases.items() if known else ():
            for version in chosen.versions:
                if (version.name, version.version) == (name, number):
                    found.setdefault((version.origin.run, version.origin.iteration), []).append(alias)
    return {place: tuple(dict.fromkeys(names)) for place, names in found.items()}


def follow_up(chosen: Plan, workspace: Path, ledger: Ledger) -> FollowUp:
    """Who is champion, and what to commit, after ``chosen`` was carried out."""
    entries = ledger.entries()
    ever = {entry.model for entry in entries if entry.kind in ("promoted", "rolled_back")}
    names = {version.name for version in chosen.versions} | (ever & set(model_names(chosen)))
    paths = [workspace / FILE, *([ledger.path] if isinstance(ledger, FileLedger) else []), workspace / "runs"]
    return FollowUp(
        {name: current(entries, name) for name in sorted(names)},
        tuple(str(p.relative_to(workspace)) for p in paths if p.exists() and p.is_relative_to(workspace)),
    )


def model_names(chosen: Plan) -> list[str]:
    """Names of the registered models that the models of ``chosen`` can be versions of."""
    trained = {model.run for model in chosen.models}
    return sorted(
        {version.name for version in chosen.versions} | {model_name(run) for run in chosen.runs if run.name in trained}
    )
