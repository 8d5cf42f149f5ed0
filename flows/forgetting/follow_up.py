"""What the models that are forgotten are to their registry and ledger, and what is left to do when they are gone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.forgetting.forget import Plan
from raft_core.forgetting.exclusions import FILE
from raft_core.promotion.ledger import Entry, FileLedger, Ledger, Standing, current
from tasks.tracking.registry import model_name, numbers

NOT_ERASED = (
    "remotes of DVC that are no folder, except its default one",
    "backups, and the versions that a bucket keeps by itself",
    "a Prefect server's backups and logs: its API empties parameters alone",
    "Prefect servers that PREFECT_API_URL does not name, and databases below another PREFECT_HOME",
    "folders that raft pull, raft merge or raft lineage checkout wrote",
    "other clones of this workspace, and their caches of DVC",
    "the weights: forgetting withdraws a model, it does not unlearn",
)
"""What no erasure does, whatever it found."""

Titles = Mapping[tuple[str, int], Sequence[str]]
"""(run, iteration) → champion, previous, candidate, or another alias that people gave it."""


@dataclass(frozen=True, slots=True)
class Aftermath:
    """``standings``: of every registered model that lost a version, or a champion of the ledger.

    ``to_commit``: paths in the workspace, for ``git add``.
    """

    standings: Mapping[str, Standing]
    to_commit: tuple[str, ...]


def titles(chosen: Plan, entries: Sequence[Entry], tracking_uri: str) -> Titles:
    """What the models of ``chosen`` are now, to the ledger and to MLflow. Raises StepError if MLflow is away."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in model_names(chosen):
        standing = current(entries, name)
        for title, holder in (("champion", standing.champion), ("previous", standing.previous)):
            if holder is not None:
                found.setdefault((holder.run, holder.iteration), []).append(title)
    for name in sorted({version.name for version in chosen.versions}):
        known = numbers(name, tracking_uri)
        for alias, number in known.aliases.items() if known else ():
            for version in chosen.versions:
                if (version.name, version.version) == (name, number):
                    found.setdefault((version.origin.run, version.origin.iteration), []).append(alias)
    return {place: tuple(dict.fromkeys(names)) for place, names in found.items()}


def aftermath(chosen: Plan, workspace: Path, ledger: Ledger) -> Aftermath:
    """What holds after ``chosen`` was carried out."""
    entries = ledger.entries()
    ever = {entry.model for entry in entries if entry.kind in ("promoted", "rolled_back")}
    names = {version.name for version in chosen.versions} | (ever & set(model_names(chosen)))
    paths = [workspace / FILE, *([ledger.path] if isinstance(ledger, FileLedger) else []), workspace / "runs"]
    return Aftermath(
        {name: current(entries, name) for name in sorted(names)},
        tuple(str(p.relative_to(workspace)) for p in paths if p.exists() and p.is_relative_to(workspace)),
    )


def model_names(chosen: Plan) -> list[str]:
    """The registered models that the models of ``chosen`` may be versions of."""
    trained = {model.run for model in chosen.models}
    return sorted(
        {version.name for version in chosen.versions} | {model_name(run) for run in chosen.runs if run.name in trained}
    )
