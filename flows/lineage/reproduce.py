"""Run an alignment again from its records, with nothing to reuse, and compare every digest."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.loop.source_tree import git
from raft_core.audit.comparison import Comparison, compare
from raft_core.errors import RaftError, StepError
from raft_core.files.plain_json import read_object
from raft_core.forgetting.erasure import TOMBSTONE
from raft_core.forgetting.exclusions import FILE, RECORD
from raft_core.launch.children import ROOT, python_module
from raft_core.records.pinned import changes, changes_of, read_pins
from raft_core.records.run import Run, read_chain, read_events, read_run

Say = Callable[[str], None]
OVERRIDES = ("versioning.enabled=false",)
"""Not part of what is computed (see ``computed_part``)."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """``code``: where the code lay that ran; ``commit``: the git commit that the run's records name."""

    comparison: Comparison
    code: Path
    commit: str | None
    run: Path
    notes: tuple[str, ...]


def reproduce(
    run: Run,
    workspace: Path,
    scratch: Path,
    *,
    clone: bool,
    environment: Mapping[str, str],
    say: Say,
    quiet: bool = False,
) -> Reproduction:
    """Align again in the empty folder ``scratch`` and hold the result against ``run``.

    The code of this process serves, unless the records name another git commit, or with ``clone``: then a clone of
    the repository at that commit does. Its progress goes to standard error, unless ``quiet``.
    Raises StepError if the second alignment fails.
    """
    chain = read_chain(run)
    if not chain:
        raise StepError(
            f"run {run.name} has no commit: there is nothing to reproduce", hint="raft align goes on with it"
        )
    wanted, notes = _recorded_commit(run)
    if erased := [commit for commit in chain if (run.folder(commit.iteration) / TOMBSTONE).exists()]:
        notes.append(f"rows of {len(erased)} iterations were erased since: this makes them anew, in {scratch}")
        say(f"warning: {notes[-1]}")
    say(f"run {run.name} is aligned again in {scratch}; that takes as long as the run itself did")
    current = git("rev-parse", "HEAD")
    code = ROOT
    if clone or (wanted is not None and current is not None and wanted != current):
        code = _cloned(wanted or current, scratch / "code")
        say(f"code of {wanted or current} in {code}")
    elif wanted is not None and current is None:
        notes.append(f"the records name commit {wanted}; the code here is an installed package whose commit is unknown")
    elif git("status", "--porcelain", "--untracked-files=no"):
        notes.append("the code here has changes that git has not got")
    if (record := run.path / RECORD).exists():
        left_out = read_object(record)["prompts"]
        row = {"time": "", "prompts": left_out, "texts": [], "sources": []}
        (scratch / FILE).write_text(json.dumps(row) + "\n")
    _align(run, workspace, scratch, code, environment, quiet=quiet)
    again = scratch / "runs" / run.name
    made = read_run(again)
    if changed := changes(read_pins(run) or {}, read_pins(made) or {}):
        notes.append(f"rewards are not those of the run: {'; '.join(changed)}")
    notes += [f"the run's own rewards changed before iteration {number}: {told}" for number, told in changes_of(chain)]
    return Reproduction(compare(run, made), code, wanted, again, tuple(notes))


def _recorded_commit(run: Run) -> tuple[str | None, list[str]]:
    """The git commit of the run's first start, and what is to be said of it."""
    started = read_events(run, "started")
    known = [str(commit) for commit in dict.fromkeys(event.get("git_commit") for event in started) if commit]
    notes = [f"it was made by several versions of the code: {', '.join(known)}"] if len(known) > 1 else []
    if any(event.get("git_changes") for event in started):
        notes.append("it was made by code with changes that git had not got")
    if not known:
        notes.append("the records name no git commit: the code that is here was used")
    return (known[0] if known else None), notes


def _cloned(commit: str | None, target: Path) -> Path:
    """A clone of the code at ``commit``. Raises StepError if there is no repository, or it lacks that commit."""
    if git("rev-parse", "HEAD") is None:
        raise StepError(
            f"no clone of the code at {commit or 'its commit'}",
            got=f"{ROOT} is not a git repository of the code",
            hint=f"run this command from a clone of the repository (pip install -e .) that has {commit or 'it'}",
        )
    for command in (
        ["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(target)],
        ["git", "-C", str(target), "checkout", "--quiet", "--detach", str(commit)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StepError(
                f"no clone of the code at {commit}",
                got=done.stderr.strip()[-500:],
                hint=f"bring that commit into {ROOT} (git fetch), then try again",
            )
    return target


def _align(
    run: Run, workspace: Path, scratch: Path, code: Path, environment: Mapping[str, str], *, quiet: bool = False
) -> None:
    """The command line of a user, in a process of its own: another version of the code may run there.

    No process of it finds modules in ``workspace``, its current folder: that may be a repository with other code.
    """
    config = scratch / "config.yaml"
    shutil.copyfile(run.path / "config.yaml", config)
    asked = ["align", str(config), *OVERRIDES, "--name", run.name, *(["--quiet"] if quiet else [])]
    command = python_module("flows.cli:main", *asked, root=code)
    settings = {
        **environment,
        "PYTHONSAFEPATH": "1",
        "RAFT_WORKSPACE": str(scratch),
        "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db",
    }
    if code != ROOT:  # an older version of the code may start processes in a way that finds the installed one
        settings["PYTHONPATH"] = str(code)
    done = subprocess.run(command, cwd=workspace, env=settings, stdout=subprocess.DEVNULL, check=False)
    try:
        made = bool(read_chain(read_run(scratch / "runs" / run.name)))
    except RaftError:
        made = False
    if not made:
        raise StepError(
            f"run {run.name} could not be run again",
            got=f"exit code {done.returncode}",
            hint=f"see {scratch} and above",
        )
