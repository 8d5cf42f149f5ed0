"""What may go, as the command and the retention deployment both do it: look, tell, remove."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_core import examples
from raft_core.records.collected import no_live_run
from raft_core.records.retention import Retention, load_retention
from tasks.versioning.gc import GcPlan, needed_commits, plan
from tasks.versioning.gc import remove as remove_weights

RULES = Path("configs/retention.yaml")


def rules_of(workspace: Path, policy: Path | None, overrides: Sequence[str] = ()) -> Retention:
    """The rules in ``policy``, else in the workspace's own file, else the defaults. Raises ConfigError."""
    own = workspace / RULES
    return load_retention(policy or (own if own.exists() else None), overrides)


def gc(workspace: Path, tracking_uri: str, ledger_uri: str, rules: Retention, *, remove: bool) -> GcPlan:
    """Say what would go, and with ``remove`` let it go.

    Raises RunBusyError while a run is live, StepError while the registry or the remote is away, IntegrityError
    where a chain does not hold: then nothing was removed.
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
