"""What a commit says beyond the digests."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raft_core.audit.verification import verify_run
from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import write_json
from raft_core.records.run import BASE, open_run, read_commit, read_run
from raft_core.types import Policy
from tasks.loop.commit import commit
from tasks.loop.iteration import Iteration


@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_the_model_folder_that_was_run_is_recorded(
    trusted: bool, tmp_path: Path, checked_config: Callable[..., RaftConfig]
) -> None:
    run = open_run(tmp_path / "runs", "one", checked_config(policy={"model": "folder", "trust_remote_code": trusted}))
    base = Policy(tmp_path / "folder", "b" * 64)
    write_json(run.folder(BASE) / "report.json", {"iteration": BASE})
    commit(Iteration(run, BASE, base, base), {})
    made = read_commit(run, BASE)
    assert made is not None
    assert made.content.get("remote_code", False) is trusted
    assert verify_run(run, rehash=True).ok

    path = run.folder(BASE) / "commit.json"
    told = json.loads(path.read_text())
    told.pop("remote_code") if trusted else told.update(remote_code=True)
    path.write_text(json.dumps(told))
    assert not verify_run(run, rehash=True).ok


def test_a_run_that_an_older_version_began_still_verifies(
    tmp_path: Path, checked_config: Callable[..., RaftConfig]
) -> None:
    """Its config.yaml lacks keys that came later; a commit that is made now records what the file says."""
    run = open_run(tmp_path / "runs", "one", checked_config())
    plain = yaml.safe_load((run.path / "config.yaml").read_text())
    del plain["finetuning"]["loss"], plain["evaluation"]["metrics"], plain["gates"]["limits"]
    (run.path / "config.yaml").write_text(yaml.safe_dump(plain))
    older = read_run(run.path)
    base = Policy(tmp_path / "folder", "b" * 64)
    write_json(run.folder(BASE) / "report.json", {"iteration": BASE})
    commit(Iteration(older, BASE, base, base), {})
    assert verify_run(older, rehash=True).ok
