"""Remove weights that nothing needs, for the command and for the scheduled deployment: plan, report, remove."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_core import examples
from raft_core.records.collected import no_live_run
from raft_core.records.retention import Retention, load_retention
from tasks.versioning.gc import GcPlan, needed_commits, plan
from tasks.versioning.gc import remove as remove_weights

RULES = Path("configs/retention.yaml")


def rules_of(workspace: Path, rules_file: Path | None, overrides: Sequence[str] = ()) -> Retention:
    """The rules in ``rules_file``, else in ``configs/retention.yaml``, else the defaults. Raises ConfigError."""
    own = workspace / RULES
    return load_retention(rules_file or (own if own.exists() else None), overrides)


def gc(workspace: Path, tracking_uri: str, ledger_uri: str, rules: Retention, *, remove: bool) -> GcPlan:
    """Plan what can be removed, and with ``remove`` remove it.

    Raises RunBusyError while a run is running, StepError if the registry or the remote cannot be reached,
    IntegrityError if a chain of commits is broken. Then nothing was removed.
    """
    (workspace / "runs").mkdir(parents=True, exist_ok=True)
    if not remove:
        return plan(workspace, needed_commits(tracking_uri, ledger_uri), rules, examples.dead_folders())
    with no_live_run(workspace / "runs"):
        found = plan(workspace, needed_commits(tracking_uri, ledger_uri), rules, examples.dead_folders())
        remove_weights(workspace, found, remote=rules.remote)
    return found


def as_json(found: GcPlan) -> Mapping[str, Any]:
    """The document of ``raft gc --json``."""
    return {
        "policies": [{"run": g.run.name, "iteration": g.iteration, "digest": g.digest} for g in found.removable],
        "kept": [{"run": v.run, "iteration": v.iteration, "reason": v.kept} for v in found.verdicts if v.kept],
        "objects": len(found.objects),
        "folders": [str(path) for path in found.scratch],
        "bytes": found.freed,
    }
