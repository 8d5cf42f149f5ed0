"""The run directory: what is true about a run. Prefect, MLflow and DVC are projections of it.

runs/NAME/
  config.yaml            the resolved configuration
  lock, children.lock    held by the live process, shared by its children
  events.jsonl           clock, hosts, retries, tracker ids: outside the hash chain
  base/                  row −1, the root of the chain: commit.json, report.json, tables/, policy/
  iterations/000/        the same, and every table of the iteration
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raft_core.config.loading import check_config, computed_part, config_digest, dump_config
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError, IntegrityError, RunBusyError, RunMismatchError
from raft_core.files.artifacts import digest_of, file_digest, json_digest, write_json, written_aside
from raft_core.files.locks import try_exclusive
from raft_core.files.plain_json import read_json
from raft_core.forgetting.erasure import digests_since
from raft_core.gates import BASE as BASE
from raft_core.records.collected import collected, nothing_collected
from raft_core.records.event_lines import events_in
from raft_core.records.names import check_new_run_name, check_run_name
from raft_core.redaction import redacted

COMMIT_FORMAT = 1
PROBE_S = 0.3
"""How long a start waits for the lease: `raft show` holds it for microseconds to see whether anybody else does."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What ``commit.json`` says, and the sha256 of its bytes."""

    digest: str
    content: Mapping[str, Any]

    @property
    def iteration(self) -> int:
        """−1 for the base."""
        return int(self.content["iteration"])

    @property
    def outputs(self) -> Mapping[str, str]:
        """Relative path of each output → sha256 (of a folder: see ``folder_digest``)."""
        outputs: Mapping[str, str] = self.content["outputs"]
        return outputs


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory and the configuration that it belongs to."""

    path: Path
    config: RaftConfig

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def folder(self, iteration: int) -> Path:
        """Where an iteration's records lie; −1 is the base."""
        return self.path / "base" if iteration == BASE else self.path / "iterations" / f"{iteration:03d}"

    def table(self, iteration: int, name: str) -> Path:
        """Path of one of an iteration's tables (see ``tables.SCHEMAS``)."""
        return self.folder(iteration) / "tables" / f"{name}.parquet"


def open_run(runs: Path, name: str, config: RaftConfig) -> Run:
    """Create ``runs/name``, or open it if it belongs to the same configuration.

    Raises RunMismatchError, naming the keys that differ, otherwise; ConfigError for a name that is
    no plain folder name.
    """
    check_run_name(name)
    run = Run(runs / name, config)
    recorded = run.path / "config.yaml"
    if not recorded.exists():
        check_new_run_name(runs, name)
        with written_aside(recorded, replace=False) as aside:
            aside.write_text(dump_config(config), encoding="utf-8")
    old = read_run(run.path).config
    if config_digest(old) != config_digest(config):
        differing = ", ".join(
            f"{key} ({there!r} there, {now!r} now)"
            for key, there, now in differences(computed_part(old), computed_part(config))
        )
        raise RunMismatchError(
            f"run {name} belongs to another configuration",
            got=f"other values for {differing}",
            expected=f"those in {recorded}",
            hint="choose another --name, or leave --name out",
        )
    return run


def read_run(path: Path) -> Run:
    """The run that lies in ``path``. Raises ConfigError where there is none, or its configuration was spoilt."""
    import yaml

    from raft_core.files.plain_yaml import read_yaml

    recorded = path / "config.yaml"
    try:
        plain = read_yaml(recorded)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"no run in {path}", expected=recorded, hint="`raft runs` lists them") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{recorded} is no YAML", got=error, hint="restore it from git") from error
    return Run(path, check_config(plain, where=str(recorded)))


def differences(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, its value in ``one`` and in ``other``, for every key whose values differ; None: not there."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
    elif one != other:
        yield where, one, other


# -- commits and their chain ------------------------------------------------------------------


def read_commit(run: Run, iteration: int) -> Commit | None:
    """The commit of an iteration, or None while there is none.

    Raises IntegrityError if it was edited: ``content`` is the digest of everything else in it. (Who
    forges that as well is caught by the next commit's ``parent`` and by the registered digest.)
    """
    path = run.folder(iteration) / "commit.json"
    if not path.exists():
        return None
    try:
        content = read_json(path)
        if content["format"] != COMMIT_FORMAT or content["iteration"] != iteration:
            raise ValueError(f"format {content['format']}, iteration {content['iteration']}")
        if (found := _content_digest(content)) != content["content"]:
            raise ValueError(f"content sha256 {found} instead of {content['content']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"edited or foreign commit: {path}",
            got=error,
            expected=f"format {COMMIT_FORMAT}, iteration {iteration}, and the content that was written",
            hint="restore it from git; nothing was changed",
        ) from error
    return Commit(file_digest(path), content)


def read_chain(run: Run) -> list[Commit]:
    """Every commit from the base on, each checked to name the one before it.

    Raises IntegrityError at the first link that does not hold, or is missing before a later one.
    """
    chain: list[Commit] = []
    parent: str | None = None
    iteration = BASE
    while (commit := read_commit(run, iteration)) is not None:
        if commit.content["parent"] != parent:
            raise IntegrityError(
                f"broken chain: iteration {iteration} of run {run.name} does not follow the commit before it",
                got=f"parent {commit.content['parent']}",
                expected=f"parent {parent}",
                hint="an earlier commit.json was edited; restore it from git",
            )
        chain.append(commit)
        parent, iteration = commit.digest, iteration + 1
    if later := [number for number in committed_iterations(run) if number > iteration]:
        raise IntegrityError(
            f"broken chain: missing {run.folder(iteration) / 'commit.json'}",
            got=f"a commit of iteration {later[-1]} without it",
            hint="restore it from git; nothing was changed",
        )
    return chain


def committed_iterations(run: Run) -> list[int]:
    """The iterations that have a ``commit.json``, whatever is in it; without the base."""
    folders = run.path.glob("iterations/*/commit.json")
    return sorted(int(path.parent.name) for path in folders if path.parent.name.isdecimal())


def linked(run: Run, path: Path) -> Path | None:
    """The symbolic link in the place of ``path``, or of a folder above it inside the run; None: there is none.

    What it leads to can be exchanged without a trace in the run.
    """
    inside = path.relative_to(run.path)
    above = (run.path / part for part in (inside, *inside.parents[:-1]))
    return next((place for place in above if place.is_symlink()), None)


def verify_outputs(run: Run, commit: Commit) -> None:
    """Hash every output that ``commit`` names. Raises IntegrityError for the first that differs.

    Where rows were erased on purpose, the tombstone says which bytes are right since; what was collected on purpose
    (``raft gc``) may be absent.
    """
    folder = run.folder(commit.iteration)
    gone = collected(folder)
    for name, expected in digests_since(folder, commit.outputs).items():
        path = folder / name
        if not path.exists() and gone.get(name) == expected:
            continue
        if not path.exists():
            raise IntegrityError(f"missing: {path}", expected=f"sha256 {expected}", hint=f"dvc pull {folder}/*.dvc")
        if link := linked(run, path):
            raise IntegrityError(f"symbolic link in a run: {link}", hint="replace it by what it leads to")
        if (got := digest_of(path)) != expected:
            raise IntegrityError(
                f"changed bytes: {path}",
                got=f"sha256 {got}",
                expected=f"sha256 {expected}",
                hint=f"remove it, then dvc checkout {folder}/*.dvc",
            )


def write_commit(run: Run, iteration: int, content: Mapping[str, Any]) -> Commit:
    """Write ``commit.json`` last: from then on the iteration exists.

    Raises IntegrityError if the commit before it is missing.
    """
    parent = None if iteration == BASE else read_commit(run, iteration - 1)
    if iteration != BASE and parent is None:
        raise IntegrityError(
            f"iteration {iteration} of run {run.name} has no commit before it",
            expected=run.folder(iteration - 1) / "commit.json",
            hint="restore it from git",
        )
    path = run.folder(iteration) / "commit.json"
    whole = {**content, "format": COMMIT_FORMAT, "iteration": iteration, "parent": parent.digest if parent else None}
    write_json(path, {**whole, "content": _content_digest(whole)})
    commit = read_commit(run, iteration)
    assert commit is not None
    return commit


def _content_digest(content: Mapping[str, Any]) -> str:
    return json_digest({key: value for key, value in content.items() if key != "content"})


# -- events: what a clock touches --------------------------------------------------------------


def record_event(run: Run, kind: str, **fields: Any) -> None:
    """Append one line to ``events.jsonl`` (durable; a line cut by a kill is skipped by readers), without secrets."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(), "kind": kind, **redacted(fields)}, default=str)
    with (run.path / "events.jsonl").open("ab+") as file:
        cut = file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write(b"\n" * cut + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_events(run: Run, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of a run in order, of one ``kind`` if given. Lines that are none are left out.

    Whoever can write the file can write such lines: what decides about a policy is read from the chain instead
    (``records.best``). Raises IntegrityError for a log that is no file.
    """
    return [event for event in events_in(run.path / "events.jsonl") if kind is None or event["kind"] == kind]


def early_end(run: Run) -> tuple[str, str] | None:
    """Status (failed, stopped, interrupted) and message of the last process, where it could say why it ended early.

    None: it ended in time, works still, or was killed.
    """
    last = next((e for e in reversed(read_events(run)) if e["kind"] in ("started", "failed")), None)
    if last is None or last["kind"] == "started":
        return None
    ends = {"KeyboardInterrupt": "interrupted", "SystemExit": "interrupted", "GateStop": "stopped"}
    return ends.get(str(last.get("error")), "failed"), str(last.get("message", ""))


# -- the lease -----------------------------------------------------------------------------------


@contextmanager
def hold(run: Run, *, wait_for_children_s: float = 60.0) -> Iterator[None]:
    """Hold the run: refused while another process does, taken over when it died.

    The kernel drops an ``flock`` with its owner. Children of a dead owner may live a moment
    longer, so their shared lock must be free as well.

    Raises RunBusyError naming host and process.
    """
    lock = run.path / "lock"
    with nothing_collected(run.path.parent), try_exclusive(lock, wait_s=PROBE_S) as ours:
        if not ours:
            raise RunBusyError(
                f"run {run.name} is in use",
                got=f"held by {lock.read_text().strip() or 'another process'}",
                hint="wait for it, stop it, or choose another --name",
            )
        _await_children(run, wait_for_children_s)
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def _await_children(run: Run, limit_s: float) -> None:
    with try_exclusive(run.path / "children.lock", wait_s=limit_s) as none_lives:
        if not none_lives:
            raise RunBusyError(
                f"a training process of run {run.name} still lives although its owner died",
                hint="end it (ps aux | grep raft), then start again",
            )
