"""Damaged, edited and moved records: named before they are used, and mended where they can be."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.lineage.verification import Scope, verify
from flows.loop.align import align_run
from flows.loop.sync import sync, sync_aliases
from flows.process.progress import Reporter
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.errors import IntegrityError, RaftError, StepError
from raft_core.files.artifacts import digest_of
from raft_core.records.run import read_chain, read_run
from tasks.promotion.ledger import open_ledger
from tasks.versioning.listing import pointer_md5
from tasks.versioning.pointers import content_md5, restore

TITLE = "Damage, and other places"
NAMED = "named at the start, before anything uses it, nothing was changed; raft lineage verify names it"
Tried = Callable[..., None]


@pytest.fixture
def copied(undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same workspace in another place, as a copy or a move leaves it."""
    for name, value in undisturbed.environment.items():
        monkeypatch.setenv(name, value)
    return Path(shutil.copytree(undisturbed.path, tmp_path / "an other place"))


def again(workspace: Path, undisturbed: Any) -> Any:
    config = load_config(undisturbed.config)
    for example in examples.examples_of(config):
        examples.prepare(example)
    return align_run(config, name="killed", workspace=workspace, tracking_uri=f"sqlite:///{workspace}/mlflow.db")


def verified(workspace: Path, *, remote: bool = False) -> dict[Path, str]:
    """Every problem that ``raft lineage verify`` finds: where → of which kind."""
    found = verify(workspace, [workspace / "runs" / "killed"], f"sqlite:///{workspace}/mlflow.db", Scope(remote=remote))
    return {problem.path: problem.kind for problem in found.problems}


def flip(path: Path, position: int = 40) -> None:
    """One bit, the date as it was: invisible to whoever looks at sizes and dates."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode)


def flip_all(store: Path) -> list[Path]:
    """A bit of every file that DVC holds there."""
    held = [path for path in (store / "files" / "md5").glob("??/*") if path.suffix != ".dir"]
    for path in held:
        flip(path, 5)
    return held


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bit flipped in a table": ("000/tables/scored.parquet", flip),
    "a bit flipped in a checkpoint": ("001/policy/adapter_model.safetensors", lambda p: flip(p, 2000)),
    "a truncated checkpoint": ("000/policy/adapter_model.safetensors", lambda p: _replace(p, p.read_bytes()[:-1])),
    "a missing table": ("001/tables/selected.parquet", Path.unlink),
    "an extra file in a checkpoint": ("000/policy/adapter_config.json", lambda p: p.with_name("more").write_text("")),
    "an edited commit.json": ("000/commit.json", lambda p: _edit(p, "sampled_from", "f" * 64)),
    "a missing commit.json": ("000/commit.json", Path.unlink),
    "a missing commit.json of the base": ("../base/commit.json", Path.unlink),
    "a commit.json that is not JSON": ("001/commit.json", lambda p: p.write_text("{")),
    "a commit.json of another iteration": ("001/commit.json", lambda p: shutil.copy(p.parents[1] / "000" / p.name, p)),
}


def _replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _edit(path: Path, key: str, value: str) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), key: value}))


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_named_before_use(fault: str, copied: Path, undisturbed: Any, tried: Tried) -> None:
    name, do = FAULTS[fault]
    path = (copied / "runs" / "killed" / "iterations" / name).resolve()
    do(path)
    with pytest.raises(IntegrityError) as caught:
        again(copied, undisturbed)
    named = path.parent if path.parent.name == "policy" else path
    assert str(named) in str(caught.value)
    assert caught.value.hint
    pointer = path.parent.with_name(f"{path.parent.name}.dvc")  # a file that is gone shows in what its folder holds
    assert {named, pointer} & verified(copied).keys()
    tried(fault, NAMED)


def test_a_workspace_without_damage_verifies(copied: Path) -> None:
    assert verified(copied, remote=True) == {}


def test_a_pointer_to_other_bytes(copied: Path, tried: Tried) -> None:
    iterations = copied / "runs" / "killed" / "iterations"
    pointer = iterations / "000" / "policy.dvc"
    other = pointer_md5(iterations / "001" / "policy.dvc")
    pointer.write_text(pointer.read_text().replace(pointer_md5(pointer), other))
    assert verified(copied) == {pointer: "pointer"}
    with pytest.raises(IntegrityError, match="changed bytes"):
        restore(pointer, copied)
    tried("a pointer to other bytes", "named by the restore, before use; raft lineage verify names it")


def test_a_bit_flipped_in_the_cache(copied: Path, tried: Tried) -> None:
    pointer = copied / "runs" / "killed" / "iterations" / "000" / "policy.dvc"
    expected = digest_of(pointer.with_suffix(""))
    shutil.rmtree(pointer.with_suffix(""))
    flipped = flip_all(copied / ".dvc" / "cache")
    assert set(flipped) <= verified(copied).keys()
    assert digest_of(restore(pointer, copied)) == expected
    tried(
        "a bit flipped in DVC's cache",
        "seen by the restore, the bytes fetched from the remote; raft lineage verify names every object",
    )


def test_a_bit_flipped_in_the_remote(copied: Path, tried: Tried) -> None:
    pointer = copied / "runs" / "killed" / "iterations" / "000" / "policy.dvc"
    shutil.rmtree(pointer.with_suffix(""))
    shutil.rmtree(copied / ".dvc" / "cache")
    flipped = flip_all(copied / ".dvc-remote")
    assert set(flipped) <= verified(copied, remote=True).keys()
    with pytest.raises((StepError, IntegrityError)):
        restore(pointer, copied)
    tried(
        "a bit flipped in the remote",
        "named by the restore, before use; raft lineage verify --remote names every object",
    )


class Quiet(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    warn = say


def test_the_database_of_mlflow_is_lost(
    copied: Path, undisturbed: Any, tried: Tried, in_mlflow: Callable[[str], Any]
) -> None:
    (copied / "mlflow.db").unlink()
    shutil.rmtree(copied / "mlartifacts")
    uri = f"sqlite:///{copied}/mlflow.db"
    reporter = Quiet()
    assert sync(copied, [], uri, look=False, reporter=reporter)
    assert not (copied / "mlflow.db").exists()
    assert sync(copied, [], uri, look=True, reporter=reporter), reporter.said
    assert in_mlflow(uri) == undisturbed.projections()["mlflow"]

    commit = read_chain(read_run(copied / "runs" / "killed"))[1]
    body = {"commit": commit.digest, "policy": commit.content["policy"]["identity"], "run": "killed", "iteration": 0}
    ledger = str(copied / "ledger.jsonl")
    open_ledger(ledger).append("promoted", "raft-killed", body, time="2026-01-01T00:00:00+00:00")
    assert sync_aliases(copied, ledger, uri, reporter), reporter.said
    champion = MlflowClient(uri, uri).get_model_version_by_alias("raft-killed", "champion")
    assert champion.tags["raft.commit"] == commit.digest
    tried("MLflow's database deleted", "raft sync --all: runs, metrics, datasets, versions and aliases are back")


def test_the_cache_and_the_remote_are_lost(copied: Path, undisturbed: Any, tried: Tried) -> None:
    shutil.rmtree(copied / ".dvc" / "cache")
    shutil.rmtree(copied / ".dvc-remote")
    assert sync(copied, ["killed"], f"sqlite:///{copied}/mlflow.db", look=True, reporter=Quiet())
    for pointer in (copied / "runs").rglob("*.dvc"):
        shutil.rmtree(pointer.with_suffix(""))
        assert content_md5(restore(pointer, copied)) == pointer_md5(pointer)
    assert undisturbed.projections()["dvc"]
    tried("DVC's cache and remote deleted", "raft sync --all: both are filled again from the run")


def test_a_workspace_in_another_place(copied: Path, undisturbed: Any, tried: Tried) -> None:
    """What it says of itself is of the new place, and the old one is never touched."""
    before = {p: p.stat().st_mtime_ns for p in undisturbed.path.rglob("*")}
    assert again(copied, undisturbed).nothing_to_do
    assert sync(copied, [], f"sqlite:///{copied}/mlflow.db", look=True, reporter=Quiet())
    client = MlflowClient(tracking_uri=f"sqlite:///{copied}/mlflow.db")
    (run,) = client.search_runs(["1"])
    assert run.info.artifact_uri.startswith((copied / "mlartifacts").as_uri())
    assert len(client.list_artifacts(run.info.run_id, "iterations/000")) == 4
    pointer = copied / "runs" / "killed" / "iterations" / "001" / "policy.dvc"
    shutil.rmtree(copied / ".dvc" / "cache")
    shutil.rmtree(pointer.with_suffix(""))
    assert restore(pointer, copied)
    assert {p: p.stat().st_mtime_ns for p in undisturbed.path.rglob("*")} == before
    tried("a workspace copied or moved to another path", "records, MLflow's artifacts and DVC's remote follow")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_moved_run_goes_on(new_workspace: Callable[..., Any], uninterrupted: Any, tried: Tried) -> None:
    workspace = new_workspace()
    assert workspace.run("tasks.loop.commit:write_commit:before:2").killed
    moved = type(workspace)(workspace.path.with_name("moved"), workspace.config, workspace.environment)
    workspace.path.rename(moved.path)
    ended = moved.run()
    assert ended.code == 0, ended.said[-3000:]
    assert moved.digests() == uninterrupted[0]
    assert moved.projections() == uninterrupted[1]
    assert not workspace.path.exists()
    tried("a killed run's workspace moved to another path", "resumed, the same end")


def test_errors_of_the_records_say_what_to_do(copied: Path) -> None:
    run = read_run(copied / "runs" / "killed")
    shutil.rmtree(run.folder(0) / "policy")
    with pytest.raises(RaftError) as caught:
        align_run(run.config, name="killed", workspace=copied, tracking_uri="")
    assert "dvc pull" in str(caught.value)
