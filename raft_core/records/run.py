"""The run directory, the record of a run. Prefect, MLflow and DVC are synced from it.

runs/NAME/
  config.yaml            the resolved configuration
  lock, children.lock    held by the process that works on the run, and shared by its children
  events.jsonl           times, hosts, retries, ids in trackers: outside the hash chain
  base/                  iteration −1, the root of the chain: commit.json, report.json, tables/, policy/
  iterations/000/        the same, and every table of the iteration
"""

import errno
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
from raft_core.errors import ConfigError, InputError, IntegrityError, RunBusyError, RunMismatchError
from raft_core.files.artifacts import digest_of, file_digest, json_digest, write_json, written_aside
from raft_core.files.locks import try_exclusive
from raft_core.files.plain_json import read_json
from raft_core.forgetting.erasure import digests_since
from raft_core.gates import BASE as BASE
from raft_core.records.collected import block_gc, collected
from raft_core.records.event_lines import events_in
from raft_core.records.names import check_new_run_name, check_run_name
from raft_core.redaction import redacted

COMMIT_FORMAT = 1
PROBE_S = 0.3
"""How long a start waits for the lock, because ``raft show`` holds it for microseconds to test it."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The content of a ``commit.json`` and the sha256 of its bytes."""

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
    """A run directory and its configuration."""

    path: Path
    config: RaftConfig

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def folder(self, iteration: int) -> Path:
        """Folder of an iteration's records; −1 is the base."""
        return self.path / "base" if iteration == BASE else self.path / "iterations" / f"{iteration:03d}"

    def table(self, iteration: int, name: str) -> Path:
        """Path of one of an iteration's tables (see ``tables.SCHEMAS``)."""
        return self.folder(iteration) / "tables" / f"{name}.parquet"


def open_run(runs: Path, name: str, config: RaftConfig) -> Run:
    """Create ``runs/name``, or open it if it belongs to the same configuration.

    Otherwise raises RunMismatchError that names the keys that differ. Raises ConfigError for a name that is not a valid
    name of a run.
    """
    check_run_name(name)
    run = Run(runs / name, config)
    recorded = run.path / "config.yaml"
    if not recorded.exists():
        check_new_run_name(runs, name)
        _create(recorded, config)
    old = read_run(run.path).config
    if config_digest(old) != config_digest(config):
        differing = ", ".join(
            f"{key} ({there!r} in the run, {now!r} now)"
            for key, there, now in differences(computed_part(old), computed_part(config))
        )
        raise RunMismatchError(
            f"run {name} already exists with another configuration",
            got=f"different values of {differing}",
            expected=f"the values in {recorded}",
            hint="choose another --name, or omit --name",
        )
    return run


def _create(recorded: Path, config: RaftConfig) -> None:
    try:
        with written_aside(recorded, replace=False) as aside:
            aside.write_text(dump_config(config), encoding="utf-8")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"the folder of the run cannot be created: {recorded.parent}",
            got=error.strerror,
            expected="a workspace in which you can write; it is the current directory, or RAFT_WORKSPACE",
            hint="make the folder writable, or set the environment variable RAFT_WORKSPACE to another one",
        ) from error


def read_run(path: Path) -> Run:
    """The run in ``path``. Raises ConfigError if there is none or its configuration cannot be read."""
    import yaml

    from raft_core.files.plain_yaml import read_yaml

    recorded = path / "config.yaml"
    try:
        plain = read_yaml(recorded)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no run in {path}", expected=recorded, hint="raft runs lists the runs") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{recorded} is not valid YAML", got=error, hint="restore it from git") from error
    return Run(path, check_config(plain, where=str(recorded)))


def differences(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value in ``one``, value in ``other``) for every key whose values differ; None: the key is absent."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
    elif one != other:
        yield where, one, other


# -- commits and their chain ------------------------------------------------------------------


def read_commit(run: Run, iteration: int) -> Commit | None:
    """The commit of an iteration, or None if there is none.

    Raises IntegrityError if it was edited: its ``content`` is the digest of everything else in it. (If that was forged
    too, the ``parent`` of the next commit and the registered digest show it.)
    """
    path = run.folder(iteration) / "commit.json"
    if not path.exists():
        return None
    try:
        content = read_json(path)
        if content["format"] != COMMIT_FORMAT or content["iteration"] != iteration:
            raise ValueError(f"format {content['format']}, iteration {content['iteration']}")
        if (found := _content_digest(content)) != content["content"]:
            raise ValueError(f"content has sha256 {found}, recorded is {content['content']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"edited or foreign commit: {path}",
            got=error,
            expected=f"format {COMMIT_FORMAT}, iteration {iteration}, and unchanged content",
            hint="restore it from git; this command changed nothing",
        ) from error
    return Commit(file_digest(path), content)


def read_chain(run: Run) -> list[Commit]:
    """Every commit, the base first, each checked to name the commit before it.

    Raises IntegrityError at the first commit that names another one, or is missing although a later one exists.
    """
    chain: list[Commit] = []
    parent: str | None = None
    iteration = BASE
    while (commit := read_commit(run, iteration)) is not None:
        if commit.content["parent"] != parent:
            raise IntegrityError(
                f"broken chain: commit {iteration} of run {run.name} does not name the commit before it",
                got=f"parent {commit.content['parent']}",
                expected=f"parent {parent}",
                hint="an earlier commit.json was edited; restore it from git",
            )
        chain.append(commit)
        parent, iteration = commit.digest, iteration + 1
    if later := [number for number in committed_iterations(run) if number > iteration]:
        raise IntegrityError(
            f"broken chain: missing {run.folder(iteration) / 'commit.json'}",
            got=f"a commit of iteration {later[-1]}, but not this one",
            hint="restore it from git; this command changed nothing",
        )
    return chain


def committed_iterations(run: Run) -> list[int]:
    """The iterations with a ``commit.json``, whether or not it is valid; without the base."""
    folders = run.path.glob("iterations/*/commit.json")
    return sorted(int(path.parent.name) for path in folders if path.parent.name.isdecimal())


def linked(run: Run, path: Path) -> Path | None:
    """The symbolic link at ``path`` or at a folder above it inside the run; None if there is none.

    A link is a fault, because its target can be replaced without a trace in the run.
    """
    inside = path.relative_to(run.path)
    above = (run.path / part for part in (inside, *inside.parents[:-1]))
    return next((place for place in above if place.is_symlink()), None)


def verify_outputs(run: Run, commit: Commit) -> None:
    """Hash every output that ``commit`` names. Raises IntegrityError for the first that differs.

    If rows were erased on purpose, the tombstone has the digest to expect; outputs that ``raft gc`` removed may be
    absent.
    """
    folder = run.folder(commit.iteration)
    removed = collected(folder)
    for name, expected in digests_since(folder, commit.outputs).items():
        path = folder / name
        if not path.exists() and removed.get(name) == expected:
            continue
        if not path.exists():
            raise IntegrityError(
                f"missing output: {path}", expected=f"sha256 {expected}", hint=f"restore it: dvc pull {folder}/*.dvc"
            )
        if link := linked(run, path):
            raise IntegrityError(
                f"symbolic link in a run: {link}", hint="replace it with the file or folder it points to"
            )
        if (got := digest_of(path)) != expected:
            raise IntegrityError(
                f"changed bytes: {path}",
                got=f"sha256 {got}",
                expected=f"sha256 {expected}",
                hint=f"remove it, then restore it: dvc checkout {folder}/*.dvc",
            )


def write_commit(run: Run, iteration: int, content: Mapping[str, Any]) -> Commit:
    """Write ``commit.json``, the last file of an iteration: with it the iteration exists.

    Raises IntegrityError if the commit before it is missing.
    """
    parent = None if iteration == BASE else read_commit(run, iteration - 1)
    if iteration != BASE and parent is None:
        raise IntegrityError(
            f"iteration {iteration} of run {run.name} cannot be committed: the commit before it is missing",
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


# -- events: everything that depends on time and machine ---------------------------------------


def record_event(run: Run, kind: str, **fields: Any) -> None:
    """Append one line to ``events.jsonl``, durably and without secrets. Readers skip a line that a kill cut off."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(), "kind": kind, **redacted(fields)}, default=str)
    with (run.path / "events.jsonl").open("ab+") as file:
        cut = file.seek(0, os.SEEK_END) > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
        file.write(b"\n" * cut + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_events(run: Run, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of a run in order, of one ``kind`` if given. Lines that are not events are skipped.

    The log is not protected, so decisions about policies are read from the chain instead (``records.best``). Raises
    IntegrityError for a log that cannot be read.
    """
    return [event for event in events_in(run.path / "events.jsonl") if kind is None or event["kind"] == kind]


def early_end(run: Run) -> tuple[str, str] | None:
    """Status (failed, stopped, interrupted) and message of the last process, if it recorded why it ended early.

    None: it finished, is still running, or was killed.
    """
    last = next((e for e in reversed(read_events(run)) if e["kind"] in ("started", "failed")), None)
    if last is None or last["kind"] == "started":
        return None
    ends = {"KeyboardInterrupt": "interrupted", "SystemExit": "interrupted", "GateStop": "stopped"}
    return ends.get(str(last.get("error")), "failed"), str(last.get("message", ""))


# -- the lock ------------------------------------------------------------------------------------


@contextmanager
def hold(run: Run, *, wait_for_children_s: float = 60.0) -> Iterator[None]:
    """Hold the lock of the run. It is refused while another process holds it, and free again when that process dies.

    Children of a dead process may live a moment longer, so their shared lock must be free too.

    Raises RunBusyError with host and process of the holder.
    """
    lock = run.path / "lock"
    with block_gc(run.path.parent), try_exclusive(lock, wait_s=PROBE_S) as ours:
        if not ours:
            raise RunBusyError(
                f"run {run.name} is in use by another process",
                got=lock.read_text().strip() or "a process that left no name",
                hint="wait until it ends, stop it, or choose another --name",
            )
        _await_children(run, wait_for_children_s)
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def _await_children(run: Run, limit_s: float) -> None:
    with try_exclusive(run.path / "children.lock", wait_s=limit_s) as none_lives:
        if not none_lives:
            raise RunBusyError(
                f"a training process of run {run.name} is still running although the process that started it died",
                hint="end it (find it with ps aux | grep raft), then run this command again",
            )
