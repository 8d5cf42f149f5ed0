"""Run an alignment again from its records, reusing nothing, and compare every digest."""

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
"""Settings that do not affect the result (see ``computed_part``)."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """``code``: folder of the code that ran; ``commit``: the git commit that the run's records name."""

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
    """Align again in the empty folder ``scratch`` and compare the result with ``run``.

    Uses the code of this process, unless the records name another git commit or ``clone`` is set: then a clone of the
    repository at that commit. Progress goes to standard error unless ``quiet``. Raises StepError if the second
    alignment fails.
    """
    chain = read_chain(run)
    if not chain:
        raise StepError(
            f"run {run.name} has no committed iteration, so there is nothing to reproduce",
            hint=f"finish it with raft resume {run.name}",
        )
    wanted, notes = _recorded_commit(run)
    if erased := [commit for commit in chain if (run.folder(commit.iteration) / TOMBSTONE).exists()]:
        notes.append(f"rows of {len(erased)} iterations were erased since; this creates them again, in {scratch}")
        say(f"warning: {notes[-1]}")
    say(f"aligning run {run.name} again in {scratch}; this takes as long as the run did")
    current = git("rev-parse", "HEAD")
    code = ROOT
    if clone or (wanted is not None and current is not None and wanted != current):
        code = _cloned(wanted or current, scratch / "code")
        say(f"using the code of git commit {wanted or current} in {code}")
    elif wanted is not None and current is None:
        notes.append(f"the records name git commit {wanted}; the installed code has no known commit")
    elif git("status", "--porcelain", "--untracked-files=no"):
        notes.append("the code here has uncommitted changes")
    if (record := run.path / RECORD).exists():
        left_out = read_object(record)["prompts"]
        row = {"time": "", "prompts": left_out, "texts": [], "sources": []}
        (scratch / FILE).write_text(json.dumps(row) + "\n")
    _align(run, workspace, scratch, code, environment, quiet=quiet)
    again = scratch / "runs" / run.name
    made = read_run(again)
    if changed := changes(read_pins(run) or {}, read_pins(made) or {}):
        notes.append(f"the rewards differ from those of the run: {'; '.join(changed)}")
    notes += [
        f"rewards changed during the run, before iteration {number}: {what}" for number, what in changes_of(chain)
    ]
    return Reproduction(compare(run, made), code, wanted, again, tuple(notes))


def _recorded_commit(run: Run) -> tuple[str | None, list[str]]:
    """The git commit of the run's first start, and notes about it."""
    started = read_events(run, "started")
    known = [str(commit) for commit in dict.fromkeys(event.get("git_commit") for event in started) if commit]
    notes = [f"several versions of the code made the run: {', '.join(known)}"] if len(known) > 1 else []
    if any(event.get("git_changes") for event in started):
        notes.append("the code that made the run had uncommitted changes")
    if not known:
        notes.append("the records name no git commit, so the code of this command was used")
    return (known[0] if known else None), notes


def _cloned(commit: str | None, target: Path) -> Path:
    """A clone of the code at ``commit``. Raises StepError if there is no repository, or it lacks that commit."""
    if git("rev-parse", "HEAD") is None:
        raise StepError(
            f"the code at git commit {commit or '(unknown)'} cannot be cloned",
            got=f"{ROOT} is not a git repository of the code",
            hint=f"run this command from a git clone (pip install -e .) that has {commit or 'that commit'}",
        )
    for command in (
        ["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(target)],
        ["git", "-C", str(target), "checkout", "--quiet", "--detach", str(commit)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StepError(
                f"the code at git commit {commit} cannot be cloned from {ROOT}",
                got=done.stderr.strip()[-500:],
                hint=f"get that commit (git -C {ROOT} fetch), then run this command again",
            )
    return target


def _align(
    run: Run, workspace: Path, scratch: Path, code: Path, environment: Mapping[str, str], *, quiet: bool = False
) -> None:
    """Run ``raft align`` in a process of its own, because it may be another version of the code.

    It does not import modules from ``workspace``, its current folder, which may be a repository with other code.
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
    if code != ROOT:  # older versions may start processes that would import the installed code
        settings["PYTHONPATH"] = str(code)
    done = subprocess.run(command, cwd=workspace, env=settings, stdout=subprocess.DEVNULL, check=False)
    try:
        made = bool(read_chain(read_run(scratch / "runs" / run.name)))
    except RaftError:
        made = False
    if not made:
        raise StepError(
            f"the second alignment of run {run.name} failed",
            got=f"exit code {done.returncode}",
            hint=f"read its messages above and the records in {scratch}",
        )
