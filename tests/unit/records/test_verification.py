"""Every way in which a run can differ from its commits is found, and all of them at once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raft_core.audit.verification import Verification, verify_run
from raft_core.config.loading import recorded_digest
from raft_core.errors import IntegrityError
from raft_core.files.artifacts import digest_of, file_digest, write_json
from raft_core.records.run import BASE, Run, read_commit, record_event, verify_outputs

Forge = Callable[[int, dict[str, object]], None]


def kinds(found: Verification) -> list[tuple[int, str]]:
    return [(problem.iteration, problem.kind) for problem in found.problems]


def test_a_sound_run(synthetic_run: Run, base_policy: Path) -> None:
    found = verify_run(synthetic_run, rehash=True, base_policy=base_policy)
    assert found.ok
    assert (found.problems, found.unseen) == ((), ())
    assert (found.num_commits, found.num_outputs, found.rehashed) == (4, 1 + 3 * 5, True)


def test_the_initial_policy_is_named_when_not_looked_at(synthetic_run: Run) -> None:
    found = verify_run(synthetic_run, rehash=True)
    assert found.ok
    assert len(found.unseen) == 1
    assert "initial policy" in found.unseen[0]


def test_every_problem_is_listed(synthetic_run: Run, base_policy: Path, forge_commit: Forge) -> None:
    table = synthetic_run.table(0, "samples")
    stat = table.stat()
    data = bytearray(table.read_bytes())
    data[-20] ^= 1
    table.write_bytes(data)
    os.utime(table, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (synthetic_run.folder(0) / "report.json").unlink()
    shutil.rmtree(synthetic_run.folder(2) / "policy")
    forge_commit(1, {"numerics": {}})
    (base_policy / "model.safetensors").write_bytes(b"other weights")
    found = verify_run(synthetic_run, rehash=True, base_policy=base_policy)
    assert kinds(found) == [(0, "missing"), (0, "changed"), (2, "broken_chain"), (2, "missing"), (BASE, "changed")]
    assert str(table) in found.problems[1].message


def test_without_rehashing_bytes_are_not_looked_at(synthetic_run: Run) -> None:
    synthetic_run.table(0, "samples").write_bytes(b"changed")
    synthetic_run.table(1, "samples").unlink()
    assert kinds(verify_run(synthetic_run, rehash=False)) == [(1, "missing")]


def test_a_clone_with_pointers_alone(synthetic_run: Run) -> None:
    for iteration in range(3):
        for name in ("tables", "policy"):
            shutil.rmtree(synthetic_run.folder(iteration) / name)
            (synthetic_run.folder(iteration) / f"{name}.dvc").write_text("outs: []\n")
    found = verify_run(synthetic_run, rehash=True)
    assert found.ok
    assert len(found.unseen) == 3 * 4 + 1
    assert "dvc pull" in found.unseen[0]
    (synthetic_run.folder(1) / "tables.dvc").unlink()
    assert kinds(verify_run(synthetic_run, rehash=True)) == [(1, "missing")] * 3


def test_a_missing_commit(synthetic_run: Run) -> None:
    (synthetic_run.folder(1) / "commit.json").unlink()
    assert kinds(verify_run(synthetic_run, rehash=True)) == [(1, "missing"), (2, "broken_chain")]
    (synthetic_run.folder(BASE) / "commit.json").unlink()
    assert (BASE, "missing") in kinds(verify_run(synthetic_run, rehash=True))


def test_an_empty_run(synthetic_run: Run) -> None:
    shutil.rmtree(synthetic_run.path / "iterations")
    shutil.rmtree(synthetic_run.path / "base")
    assert kinds(verify_run(synthetic_run, rehash=True)) == [(BASE, "missing")]


def test_a_run_that_failed_before_its_first_commit_has_no_problem(fresh_run: Run) -> None:
    record_event(fresh_run, "failed", error="RewardError", message="no score")
    found = verify_run(fresh_run, rehash=True)
    assert found.ok
    assert found.num_commits == 0
    assert len(found.unseen) == 1
    record_event(fresh_run, "step", iteration=BASE, step="commit", seconds=0.1)
    assert kinds(verify_run(fresh_run, rehash=True)) == [(BASE, "missing")]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"iteration": 7},
        {"policy": None},
        {"policy": {"identity": 1, "digest": "d", "base": None}},
        {"outputs": []},
        {"outputs": {"../../../etc/passwd": "0" * 64}},
        {"outputs": {"/etc/passwd": "0" * 64}},
        {"outputs": {"report.json": "short"}},
        {"steps": {"sample": {"key": "k"}}},
    ],
)
def test_a_malformed_commit(synthetic_run: Run, forge_commit: Forge, changes: dict[str, object]) -> None:
    forge_commit(2, changes)
    assert kinds(verify_run(synthetic_run, rehash=True)) == [(2, "malformed")]


def test_an_edit_that_forgets_the_seal(synthetic_run: Run) -> None:
    path = synthetic_run.folder(2) / "commit.json"
    path.write_bytes(path.read_bytes().replace(b'"cpu"', b'"gpu"'))
    found = verify_run(synthetic_run, rehash=False)
    assert kinds(found) == [(2, "malformed")]
    assert "edited or foreign commit" in found.problems[0].message


def test_bytes_that_are_no_json(synthetic_run: Run) -> None:
    (synthetic_run.folder(2) / "commit.json").write_bytes(b'{"format": 1')
    assert kinds(verify_run(synthetic_run, rehash=True)) == [(2, "malformed")]


def test_a_policy_swapped_together_with_its_commit(synthetic_run: Run, forge_commit: Forge) -> None:
    weights = synthetic_run.folder(2) / "policy" / "adapter_model.safetensors"
    weights.write_bytes(b"another adapter")
    content = json.loads((synthetic_run.folder(2) / "commit.json").read_bytes())
    forge_commit(2, {"outputs": {**content["outputs"], "policy": digest_of(weights.parent)}})
    found = verify_run(synthetic_run, rehash=True)
    assert kinds(found) == [(2, "broken_chain")] * 2
    assert "its output" in found.problems[0].message
    assert "step finetune made policy" in found.problems[1].message


def test_a_foreign_ancestor_base_or_step(synthetic_run: Run, forge_commit: Forge) -> None:
    content = json.loads((synthetic_run.folder(2) / "commit.json").read_bytes())
    forge_commit(2, {"sampled_from": "f" * 32})
    assert "no commit before it made" in verify_run(synthetic_run, rehash=True).problems[0].message
    forge_commit(2, {"sampled_from": content["sampled_from"], "policy": {**content["policy"], "base": "e" * 64}})
    told = [problem.message for problem in verify_run(synthetic_run, rehash=True).problems]
    assert any("another base" in message for message in told)


@pytest.mark.parametrize(
    ("step", "facts", "told"),
    [
        ("sample", {"outputs": {"samples": "d" * 64}}, "step sample made samples dddd"),
        ("sample", {"inputs": {"prompts": "d" * 64}}, "step sample read prompts dddd"),
        ("finetune", {"inputs": {"selected": "d" * 64}}, "step finetune read selected dddd"),
        ("finetune", {"inputs": {"policy": "d" * 32}}, "step finetune used policy dddd"),
        ("evaluate", {"inputs": {"policy": "d" * 32}}, "step evaluate used policy dddd"),
    ],
)
def test_a_step_that_read_or_made_something_else(
    synthetic_run: Run, forge_commit: Forge, step: str, facts: dict[str, object], told: str
) -> None:
    forge_commit(2, {"steps": {step: {"key": "k", "inputs": {}, "outputs": {}, **facts}}})
    found = verify_run(synthetic_run, rehash=True)
    assert kinds(found) == [(2, "broken_chain")]
    assert told in found.problems[0].message


def test_another_configuration(synthetic_run: Run) -> None:
    recorded = synthetic_run.path / "config.yaml"
    text = recorded.read_text()
    for spoilt in (text.replace("seed: 0", "seed: 5"), text + "later_key: 1\n", "[]", "name: [", ""):
        recorded.write_text(spoilt)
        assert kinds(verify_run(synthetic_run, rehash=False)) == [(n, "config") for n in (BASE, 0, 1, 2)]


def test_the_configuration_of_an_older_version_holds(synthetic_run: Run, forge_commit: Forge) -> None:
    """A key that raft learnt since, with its default, is no edit."""
    recorded = synthetic_run.path / "config.yaml"
    older = recorded.read_text().replace("seed: 0\n", "")
    recorded.write_text(older)
    parent = None
    for number in (BASE, 0, 1, 2):
        forge_commit(number, {"config": recorded_digest(yaml.safe_load(older)), "parent": parent})
        parent = file_digest(synthetic_run.folder(number) / "commit.json")
    assert verify_run(synthetic_run, rehash=False).ok


def test_a_symbolic_link_among_the_weights(synthetic_run: Run, tmp_path: Path) -> None:
    (synthetic_run.folder(0) / "policy" / "link").symlink_to(tmp_path)
    assert kinds(verify_run(synthetic_run, rehash=True)) == [(0, "unreadable")]


def test_it_is_plain_data(synthetic_run: Run, tmp_path: Path) -> None:
    from dataclasses import asdict

    found = asdict(verify_run(synthetic_run, rehash=True))
    write_json(tmp_path / "found.json", {**found, "problems": len(found["problems"])})
    assert json.loads((tmp_path / "found.json").read_bytes())["num_commits"] == 4


@pytest.mark.parametrize("name", ["policy", "tables", "tables/samples.parquet", "report.json", "."])
def test_a_symbolic_link_in_the_place_of_an_output_is_named(
    name: str, synthetic_run: Run, base_policy: Path, tmp_path: Path
) -> None:
    path = synthetic_run.folder(1) / name
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    for rehash in (False, True):
        found = verify_run(synthetic_run, rehash=rehash, base_policy=base_policy)
        assert {(p.iteration, p.kind, p.path) for p in found.problems} == {(1, "link", path)}
    commit = read_commit(synthetic_run, 1)
    assert commit is not None
    with pytest.raises(IntegrityError, match="symbolic link in a run"):
        verify_outputs(synthetic_run, commit)


def test_a_run_may_lie_behind_a_link(synthetic_run: Run, base_policy: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(synthetic_run.path)
    run = Run(tmp_path / "other", synthetic_run.config)
    assert verify_run(run, rehash=True, base_policy=base_policy).ok
