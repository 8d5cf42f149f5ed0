"""The rotating sweep: every commit's bytes are read in turn, and what was collected is told from what is missing."""

import shutil
from dataclasses import replace
from pathlib import Path

from raft_core.audit.verification import verify_run
from raft_core.forgetting.erasure import Erased
from raft_core.forgetting.erasure import write_tombstone as write_erased
from raft_core.promotion.ledger import FileLedger
from raft_core.records.collected import write_tombstone
from raft_core.records.run import Run, read_chain
from tasks.audit.sweep import LOG, Audit
from tasks.audit.sweep import sweep as sweep_with


def workspace_of(run: Run) -> Path:
    return run.path.parents[1]


def sweep(workspace: Path, share: float) -> Audit:
    return sweep_with(workspace, share, FileLedger(workspace / "ledger.jsonl"))


def test_every_commit_has_its_turn(synthetic_run: Run) -> None:
    workspace = workspace_of(synthetic_run)
    sweeps = [sweep(workspace, 0.25) for _ in range(8)]
    assert all(found.problems == () for found in sweeps)
    assert [len(found.rehashed) for found in sweeps] == [1] * 8
    everything = {f"{synthetic_run.name} {commit.digest}" for commit in read_chain(synthetic_run)}
    assert {digest for found in sweeps[:4] for digest in found.rehashed} == everything
    assert {digest for found in sweeps[4:] for digest in found.rehashed} == everything


def test_a_flipped_byte_is_found_when_its_turn_comes(synthetic_run: Run) -> None:
    table = synthetic_run.table(1, "samples")
    data = bytearray(table.read_bytes())
    data[-1] ^= 1
    table.chmod(0o644)
    table.write_bytes(data)
    found = [sweep(workspace_of(synthetic_run), 0.25) for _ in range(4)]
    (problem,) = [problem for each in found for problem in each.problems]
    assert str(table) in problem


def test_runs_with_the_same_commits_have_each_their_turn(synthetic_run: Run) -> None:
    """Two nights of one configuration: the bytes are theirs."""
    twin = replace(synthetic_run, path=Path(shutil.copytree(synthetic_run.path, synthetic_run.path.with_name("twin"))))
    table = twin.table(1, "samples")
    data = bytearray(table.read_bytes())
    data[-1] ^= 1
    table.chmod(0o644)
    table.write_bytes(data)
    found = [sweep(workspace_of(synthetic_run), 0.25) for _ in range(4)]
    assert [problem for each in found for problem in each.problems]


def test_an_erasure_that_nobody_ordered_is_found(synthetic_run: Run) -> None:
    was = read_chain(synthetic_run)[1].outputs["tables/samples.parquet"]
    tombstone = write_erased(synthetic_run.folder(0), {"tables/samples.parquet": Erased(was, was, 1)}, ["nobody"])
    (problem,) = sweep(workspace_of(synthetic_run), 0.25).problems
    assert "the ledger has no erasure" in problem
    ledger = FileLedger(workspace_of(synthetic_run) / "ledger.jsonl")
    ledger.append("erased", "raft", {"tombstone": tombstone.digest}, time="2026-01-01T00:00:00+00:00")
    assert sweep(workspace_of(synthetic_run), 0.25).problems == ()


def test_a_log_that_a_kill_cut_is_read_as_far_as_it_goes(synthetic_run: Run) -> None:
    log = workspace_of(synthetic_run) / LOG
    log.write_text('{"time": "2026-01-01", "comm')
    assert sweep(workspace_of(synthetic_run), 1.0).problems == ()
    first, second = (sweep(workspace_of(synthetic_run), 0.25).rehashed for _ in range(2))
    assert first != second


def test_what_was_collected_is_not_missing(synthetic_run: Run) -> None:
    folder, commit = synthetic_run.folder(0), read_chain(synthetic_run)[1]
    shutil.rmtree(folder / "policy")
    missing = verify_run(synthetic_run, rehash=False)
    assert [problem.kind for problem in missing.problems] == ["missing"]
    write_tombstone(folder, {"policy": commit.outputs["policy"]}, {})
    found = verify_run(synthetic_run, rehash=False)
    assert found.ok
    assert len(found.collected) == 1
    write_tombstone(folder, {"policy": "0" * 64}, {})
    assert not verify_run(synthetic_run, rehash=False).ok
