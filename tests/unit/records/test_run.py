"""The run directory: who may open it, its chain of commits, its events and its lease."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raft_core.config.loading import dump_config
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError, InputError, IntegrityError, RunBusyError, RunMismatchError
from raft_core.files.artifacts import canonical_json, digest_of, file_digest, write_bytes
from raft_core.files.locks import shared
from raft_core.records import run as run_module
from raft_core.records.run import (
    BASE,
    Run,
    hold,
    open_run,
    read_chain,
    read_commit,
    read_events,
    read_run,
    record_event,
    verify_outputs,
    write_commit,
)

Config = Callable[..., RaftConfig]
Start = Callable[..., "subprocess.Popen[str]"]


def commit(run: Run, iteration: int, text: str = "content") -> None:
    """An iteration with one output."""
    output = run.folder(iteration) / "out.txt"
    write_bytes(output, f"{text} {iteration}".encode())
    write_commit(run, iteration, {"outputs": {"out.txt": digest_of(output)}, "reward": 0.5})


@pytest.fixture
def three(fresh_run: Run) -> Run:
    for iteration in (BASE, 0, 1):
        commit(fresh_run, iteration)
    return fresh_run


def edit(run: Run, iteration: int, changes: dict[str, Any]) -> None:
    path = run.folder(iteration) / "commit.json"
    path.write_bytes(canonical_json({**json.loads(path.read_bytes()), **changes}))


# -- opening -----------------------------------------------------------------------------------


def test_a_run_opens_again_with_what_computes_the_same(tmp_path: Path, checked_config: Config) -> None:
    first = open_run(tmp_path, "r", checked_config())
    again = open_run(tmp_path, "r", checked_config(name="other", tracking={"experiment": "e"}))
    assert again.path == first.path
    assert read_run(first.path).config == first.config
    assert first.name == "r"
    assert first.folder(BASE) == tmp_path / "r" / "base"
    assert first.table(12, "samples") == tmp_path / "r" / "iterations" / "012" / "tables" / "samples.parquet"


def test_a_run_of_another_configuration_names_the_keys_that_differ(tmp_path: Path, checked_config: Config) -> None:
    open_run(tmp_path, "r", checked_config())
    other = checked_config(
        name="other", seed=4, sampling={"top_p": 0.5}, selection={"type": "threshold", "threshold": 1.0}
    )
    with pytest.raises(RunMismatchError) as caught:
        open_run(tmp_path, "r", other)
    message = str(caught.value)
    for told in (
        "run r ",
        "sampling.top_p (1.0 in the run, 0.5 now)",
        "seed (0 in the run, 4 now)",
        "selection.type ('best_of_k' in the run, 'threshold' now)",
        "--name",
    ):
        assert told in message
    assert "other" not in str(caught.value.got), "the name of a configuration may differ"


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "-x", "a b", "x" * 101, "a\n"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, checked_config: Config, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(name))):
        open_run(tmp_path / "runs", name, checked_config())
    assert not (tmp_path / "runs").exists()


def test_a_workspace_that_cannot_be_written_is_the_users_mistake(tmp_path: Path, checked_config: Config) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError) as caught:
        open_run(tmp_path / "runs", "first", checked_config())
    assert str(tmp_path / "runs" / "first") in caught.value.what
    assert "RAFT_WORKSPACE" in str(caught.value.hint)


def test_of_two_that_create_a_run_at_once_the_first_wins(
    tmp_path: Path, checked_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one creates the run after we found none, and before we wrote ours."""

    def overtaken(config: RaftConfig) -> str:
        monkeypatch.undo()
        open_run(tmp_path, "r", checked_config(seed=1))
        return dump_config(config)

    monkeypatch.setattr(run_module, "dump_config", overtaken)
    with pytest.raises(RunMismatchError, match="seed"):
        open_run(tmp_path, "r", checked_config(seed=2))
    assert read_run(tmp_path / "r").config.seed == 1


@pytest.mark.parametrize("content", [b"name: [", b"\xff\xfe", b"name: x\n", b""])
def test_a_spoilt_configuration_is_one_clear_error(fresh_run: Run, content: bytes) -> None:
    (fresh_run.path / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_run(fresh_run.path)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run in"):
        read_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no run in"):
        read_run(tmp_path / "file")


# -- commits -----------------------------------------------------------------------------------


def test_each_commit_names_the_one_before(three: Run) -> None:
    chain = read_chain(three)
    assert [c.iteration for c in chain] == [BASE, 0, 1]
    assert [c.content["parent"] for c in chain] == [None, chain[0].digest, chain[1].digest]
    assert chain[2].digest == file_digest(three.folder(1) / "commit.json")
    for c in chain:
        verify_outputs(three, c)


def test_commits_are_the_same_bytes_whenever_they_are_written(tmp_path: Path, checked_config: Config) -> None:
    digests = []
    for name in ("a", "b"):
        run = open_run(tmp_path, name, checked_config())
        for iteration in (BASE, 0):
            commit(run, iteration)
        digests.append(read_chain(run)[-1].digest)
    assert digests[0] == digests[1]


def test_an_iteration_without_commit_does_not_exist(three: Run) -> None:
    write_bytes(three.folder(2) / "out.txt", b"unfinished")
    assert read_commit(three, 2) is None
    assert len(read_chain(three)) == 3


@pytest.mark.parametrize("iteration", [BASE, 0, 1])
@pytest.mark.parametrize(
    "changes", [{"reward": 0.9}, {"extra": 1}, {"parent": "0" * 64}, {"iteration": 7}, {"format": 9}]
)
def test_an_edited_commit_is_found_wherever_it_is(three: Run, iteration: int, changes: dict[str, Any]) -> None:
    edit(three, iteration, changes)
    with pytest.raises(IntegrityError, match="edited or foreign commit"):
        read_chain(three)


@pytest.mark.parametrize("gap", [BASE, 0])
def test_a_commit_that_is_missing_before_a_later_one(three: Run, gap: int) -> None:
    missing = three.folder(gap) / "commit.json"
    missing.unlink()
    with pytest.raises(IntegrityError, match="broken chain") as caught:
        read_chain(three)
    assert str(missing) in str(caught.value)
    assert "restore it from git" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"{", b"\xff", b'{"format": 1, "iteration": 0}'])
def test_a_commit_that_is_none(three: Run, content: bytes) -> None:
    (three.folder(0) / "commit.json").write_bytes(content)
    with pytest.raises(IntegrityError, match="edited or foreign commit"):
        read_commit(three, 0)


def test_a_rewritten_commit_breaks_the_chain(three: Run) -> None:
    """An earlier commit that is consistent in itself, but not the one that was followed."""
    commit(three, 0, text="another")
    with pytest.raises(IntegrityError, match=r"broken chain.*1 of run one"):
        read_chain(three)


def test_a_commit_needs_the_one_before(fresh_run: Run) -> None:
    with pytest.raises(IntegrityError, match="iteration 0 of run one"):
        write_commit(fresh_run, 0, {"outputs": {}})


def test_changed_and_missing_outputs(three: Run) -> None:
    last = read_chain(three)[-1]
    (three.folder(1) / "out.txt").write_bytes(b"tampered")
    with pytest.raises(IntegrityError, match="changed bytes"):
        verify_outputs(three, last)
    (three.folder(1) / "out.txt").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        verify_outputs(three, last)


# -- events ------------------------------------------------------------------------------------


def test_events_come_back_in_order_and_by_kind(fresh_run: Run) -> None:
    assert read_events(fresh_run) == []
    record_event(fresh_run, "step", step="sample", iteration=0, path=Path("x"))
    record_event(fresh_run, "warning", message="é\u2028")
    record_event(fresh_run, "step", step="sample", iteration=1)
    assert [e["iteration"] for e in read_events(fresh_run, "step")] == [0, 1]
    assert read_events(fresh_run)[1]["message"] == "é\u2028"
    assert read_events(fresh_run)[0]["path"] == "x"


def test_an_event_cut_by_a_kill_costs_only_itself(fresh_run: Run) -> None:
    record_event(fresh_run, "first")
    with (fresh_run.path / "events.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    record_event(fresh_run, "second")
    record_event(fresh_run, "third")
    assert [e["kind"] for e in read_events(fresh_run)] == ["first", "second", "third"]


def test_events_of_several_threads_do_not_mix(fresh_run: Run) -> None:
    def write(number: int) -> None:
        for i in range(20):
            record_event(fresh_run, "warning", number=number, i=i, text="x" * 500)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_events(fresh_run)) == 80


# -- the lease ---------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from raft_core.records.run import hold, read_run
with hold(read_run(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_holds_the_run(fresh_run: Run, start_python: Start) -> None:
    process = start_python(HOLD, fresh_run.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunBusyError) as caught, hold(fresh_run):
        pytest.fail("the run was held twice")
    assert caught.value.got == f"process {process.pid} on {os.uname().nodename}"
    process.communicate("", timeout=30)
    with hold(fresh_run):
        assert f"process {os.getpid()} on" in (fresh_run.path / "lock").read_text()


def test_a_lock_is_taken_over_after_a_kill(fresh_run: Run, start_python: Start) -> None:
    process = start_python(HOLD, fresh_run.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    with hold(fresh_run):
        pass


def test_a_lock_is_free_after_an_error(fresh_run: Run) -> None:
    with pytest.raises(RuntimeError, match="oops"), hold(fresh_run):
        raise RuntimeError("oops")
    with hold(fresh_run):
        pass


def test_a_living_child_of_a_dead_owner_is_waited_for(fresh_run: Run) -> None:
    with shared(fresh_run.path / "children.lock") as child:
        with pytest.raises(RunBusyError, match="training process of run"), hold(fresh_run, wait_for_children_s=0.05):
            pytest.fail("the run was taken from a living child")
        threading.Timer(0.3, child.close).start()
        with hold(fresh_run, wait_for_children_s=10):
            pass


def test_two_runs_are_held_at_once(fresh_run: Run, tmp_path: Path) -> None:
    other = replace(fresh_run, path=tmp_path / "runs" / "two")
    other.path.mkdir()
    with hold(fresh_run), hold(other):
        assert all("process" in (run.path / "lock").read_text() for run in (fresh_run, other))
