"""``raft sync``: bring MLflow and DVC up to date with run directories, without Prefect and without resuming runs."""

from collections.abc import Sequence
from pathlib import Path

from flows.process.progress import Reporter
from raft_core.errors import RaftError, RunBusyError
from raft_core.records.names import check_run_name
from raft_core.records.overview import run_paths
from raft_core.records.run import BASE, Run, hold, read_chain, read_events, read_run
from tasks.loop import sync as sync_run
from tasks.loop.decide import decide, ended_at, pending
from tasks.promotion.ledger import open_ledger
from tasks.tracking import aliases
from tasks.tracking.registry import ALIAS


def sync(workspace: Path, names: Sequence[str], uri: str, *, look: bool, reporter: Reporter) -> bool:
    """Sync the runs called ``names`` (default: all); returns whether everything is up to date.

    ``look``: do not trust the event logs; ask MLflow, DVC's cache and its remote what they lack. Runs are synced in the
    order in which they ended, so that later ones get higher version numbers. Runs that a process works on are skipped.
    """
    paths = [workspace / "runs" / check_run_name(name) for name in names] or list(run_paths(workspace))
    whole = True
    for run in sorted(map(read_run, paths), key=ended_at):
        try:
            with hold(run):
                did, faults = _sync(run, workspace, uri, look=look)
        except RunBusyError as busy:
            reporter.say(f"{run.name}: skipped, {busy.got}")
            continue
        except (RaftError, OSError) as error:
            did, faults = [], [str(error)]
        whole = whole and not faults
        if did or not faults:
            reporter.say(f"{run.name}: {', '.join(did) or 'up to date'}")
        for fault in faults:
            reporter.warn(f"{run.name}: {fault}")
    return whole


def sync_aliases(workspace: Path, ledger: str, uri: str, reporter: Reporter) -> bool:
    """Set MLflow's aliases to what the ledger of promotions says; returns whether all could be set."""
    try:
        book = open_ledger(ledger)
        faults = aliases.apply(book, workspace / "runs", uri) if book.entries() else []
    except (RaftError, OSError) as error:
        faults = [str(error)]
    for fault in faults:
        reporter.warn(fault)
    return not faults


def _sync(run: Run, workspace: Path, uri: str, *, look: bool) -> tuple[list[str], list[str]]:
    """Returns (what was synced, what failed)."""
    committed = [commit.iteration for commit in read_chain(run)]
    every = {"version": committed, "track": committed} if run.config.versioning.enabled else {"track": committed}
    waiting = {name: numbers for name, numbers in every.items() if numbers} if look else pending(run)
    did, faults = list[str](), list[str]()
    if numbers := waiting.get("version"):
        try:
            fault = sync_run.to_dvc(run, numbers, workspace, look=look)
        except (RaftError, OSError) as error:
            fault = str(error)
        (faults if fault else did).append(fault or f"{_count(numbers)} added to DVC")
    try:
        if numbers := waiting.get("track"):
            sync_run.to_mlflow(run, numbers, uri, look=look)
            did.append(f"{_count(numbers)} logged to MLflow")
        did += _close(run, uri, look=look)
    except (RaftError, OSError) as error:
        faults.append(str(error))
    return did, faults


def _close(run: Run, uri: str, *, look: bool) -> list[str]:
    """Register the best iteration of an ended run, unless its plain checkpoint must be written first."""
    decision = decide(run)
    if decision is None or decision.go_on or (read_events(run, "finished") and not look):
        return []
    to_merge = run.config.finetuning.merge and decision.best != BASE
    if to_merge and not (run.path / "merged" / f"{decision.best:03d}").exists():
        return [f"not finished: run raft resume {run.name} to write its plain checkpoint"]
    registered = sync_run.close(run, decision, uri)
    if registered is None:
        return []
    what = f"as {registered.alias}" if registered.alias else f"({ALIAS} stays with a run that ended later)"
    return [f"registered {registered.name} version {registered.version} {what}"]


def _count(iterations: Sequence[int]) -> str:
    return "1 iteration" if len(iterations) == 1 else f"{len(iterations)} iterations"
