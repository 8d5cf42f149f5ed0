"""Collecting weights, with the real DVC: what goes, what stays, and that the chain verifies as before."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raft_core.errors import IntegrityError, StepError
from raft_core.gates import Decision
from raft_core.records.collected import collected
from raft_core.records.retention import Retention
from raft_core.records.run import Run, read_chain, read_events, record_event, verify_outputs
from tasks.versioning import gc
from tasks.versioning.listing import pointer_md5
from tasks.versioning.pointers import restore, version

ALL_GO = Retention(keep_runs=0, keep_days=0, keep_best=False)


@pytest.fixture
def finished_run(small_run: Run, add_iteration: Callable[[Run, int], None], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of two iterations that DVC has, and whose gates said stop."""
    add_iteration(small_run, 1)
    for iteration in (-1, 0, 1):
        version(small_run, iteration, small_run.path.parents[1], push=True)
        for projection in ("version", "track"):
            record_event(small_run, "projected", iteration=iteration, projection=projection)
    record_event(small_run, "finished", status="completed", best=1, reason="done")
    stop = Decision(go_on=False, kind="completed", best=1, reason="done")
    monkeypatch.setattr(gc, "decide", lambda run: stop)
    return small_run


def remote_files(workspace: Path) -> set[str]:
    return {p.relative_to(workspace / ".dvc-remote").as_posix() for p in (workspace / ".dvc-remote").rglob("*/*/*/*")}


def test_an_unkept_policy_goes_from_folder_and_cache_and_the_chain_still_holds(finished_run: Run) -> None:
    workspace = finished_run.path.parents[1]
    best = read_chain(finished_run)[2].digest
    md5 = {n: pointer_md5(finished_run.folder(n) / "policy.dvc") for n in (0, 1)}
    in_remote = remote_files(workspace)
    found = gc.plan(workspace, {best: "registered"}, ALL_GO)
    assert [(g.run.name, g.iteration) for g in found.removable] == [(finished_run.name, 0)]
    assert found.freed > len(f"weights {finished_run.name} 0") * 100
    assert (finished_run.folder(0) / "policy").is_dir(), "a plan changes nothing"

    gc.remove(workspace, found, remote=False)
    assert not (finished_run.folder(0) / "policy").exists()
    assert not (finished_run.folder(0) / "policy.dvc").exists()
    assert not gc.cached(workspace, md5[0]).exists()
    assert (finished_run.folder(0) / "tables" / "selected.parquet").exists()
    chain = read_chain(finished_run)
    assert collected(finished_run.folder(0)) == {"policy": chain[1].outputs["policy"]}
    for commit in chain:
        verify_outputs(finished_run, commit)
    assert [e["iteration"] for e in read_events(finished_run, "collected")] == [0]
    shutil.rmtree(finished_run.folder(1) / "policy")
    restore(finished_run.folder(1) / "policy.dvc", workspace)
    assert remote_files(workspace) == in_remote
    assert not gc.plan(workspace, {best: "registered"}, ALL_GO).removable, "nothing is left to remove"


def test_the_remote_gives_up_what_only_goners_refer_to(finished_run: Run) -> None:
    workspace = finished_run.path.parents[1]
    before = remote_files(workspace)
    found = gc.plan(workspace, {read_chain(finished_run)[2].digest: "registered"}, ALL_GO)
    gc.remove(workspace, found, remote=True)
    gone = {f"files/md5/{name[:2]}/{name[2:]}" for name in found.objects}
    assert gone
    assert before - remote_files(workspace) == gone
    shutil.rmtree(workspace / ".dvc" / "cache")
    shutil.rmtree(finished_run.folder(1) / "policy")
    restore(finished_run.folder(1) / "policy.dvc", workspace)


def test_an_object_that_something_kept_refers_to_stays(finished_run: Run) -> None:
    """Both adapters hold the same adapter_config.json: one object of the cache."""
    workspace = finished_run.path.parents[1]
    found = gc.plan(workspace, {read_chain(finished_run)[2].digest: "registered"}, ALL_GO)
    kept = gc._objects_of(workspace, [pointer_md5(finished_run.folder(1) / "policy.dvc")])
    assert not set(found.objects) & kept


def keep_by_pointer(folder: Path, pointer: str) -> None:
    (folder / "kept.dvc").write_text(pointer)


def keep_by_pipeline(folder: Path, pointer: str) -> None:
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": {"cmd": "true", "outs": ["kept"]}}}))
    lock = {"schema": "2.0", "stages": {"copy": {"cmd": "true", "outs": yaml.safe_load(pointer)["outs"]}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))


@pytest.mark.parametrize("keep", [keep_by_pointer, keep_by_pipeline])
def test_what_a_person_keeps_in_a_folder_of_his_own_stays(finished_run: Run, keep: Callable[[Path, str], None]) -> None:
    workspace = finished_run.path.parents[1]
    (workspace / "mine" / "deep").mkdir(parents=True)
    pointer = (finished_run.folder(0) / "policy.dvc").read_text().replace("path: policy", "path: kept")
    keep(workspace / "mine" / "deep", pointer)
    found = gc.plan(workspace, {read_chain(finished_run)[2].digest: "registered"}, ALL_GO)
    assert len(found.removable) == 1
    assert not found.objects


def test_a_pipeline_that_nobody_can_read_stops_gc(finished_run: Run) -> None:
    workspace = finished_run.path.parents[1]
    (workspace / "dvc.yaml").write_text("stages: [")
    with pytest.raises(StepError, match=re.escape(str(workspace))):
        gc.plan(workspace, {}, ALL_GO)


def test_killed_in_the_middle_a_second_gc_finishes(finished_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = finished_run.path.parents[1]
    named = {read_chain(finished_run)[2].digest: "registered"}
    found = gc.plan(workspace, named, ALL_GO)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gc, "_delete", killed)
        with pytest.raises(KeyboardInterrupt):
            gc.remove(workspace, found, remote=False)
    again = gc.plan(workspace, named, ALL_GO)
    assert [(g.iteration, g.md5) for g in again.removable] == [(g.iteration, g.md5) for g in found.removable]
    gc.remove(workspace, again, remote=False)
    assert not gc.plan(workspace, named, ALL_GO).removable


def test_a_missing_policy_without_a_tombstone_is_missing(finished_run: Run) -> None:
    shutil.rmtree(finished_run.folder(0) / "policy")
    with pytest.raises(IntegrityError, match="missing"):
        verify_outputs(finished_run, read_chain(finished_run)[1])


def test_scratch_of_committed_iterations_goes(finished_run: Run) -> None:
    work = finished_run.folder(1) / "work"
    work.mkdir()
    (work / "left").write_bytes(b"x" * 1000)
    workspace = finished_run.path.parents[1]
    found = gc.plan(workspace, {}, Retention())
    assert found.scratch == (work,)
    assert found.freed == 1000
    gc.remove(workspace, found, remote=False)
    assert not work.exists()
