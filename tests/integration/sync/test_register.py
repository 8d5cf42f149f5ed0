"""The registry for real (sqlite): one version a commit, an alias that moves, no weights copied."""

from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo
from mlflow import MlflowClient

from raft_core.errors import StepError
from raft_core.records.run import BASE, Run, read_commit
from tasks.tracking.registry import register
from tasks.tracking.runs import track
from tasks.versioning.pointers import version

AddIteration = Callable[[Run, int], None]


def test_a_version_leads_back_to_its_commit_and_pointer(
    small_run: Run, uri: str, client: MlflowClient, workspace: Path
) -> None:
    pointers = version(small_run, 0, workspace, push=False).pointers
    run_id = track(small_run, uri)
    registered = register(small_run, 0, uri)
    assert registered is not None
    assert (registered.name, registered.version, registered.alias) == ("raft-small", "1", "candidate")
    found = client.get_model_version_by_alias("raft-small", "candidate")
    commit = read_commit(small_run, 0)
    assert commit is not None
    assert found.run_id == run_id
    assert found.source.startswith("models:/m-")
    assert found.tags == {
        "raft.commit": commit.digest,
        "raft.run": "small-run",
        "raft.iteration": "0",
        "raft.policy": commit.outputs["policy"],
        "raft.policy_identity": "identity-0",
        "raft.policy_base": "b" * 64,
        "dvc.policy": pointers["policy"],
        "dvc.pointer": "runs/small-run/iterations/000/policy.dvc",
    }


def test_the_weights_are_not_copied(small_run: Run, uri: str, workspace: Path) -> None:
    version(small_run, 0, workspace, push=False)
    register(small_run, 0, uri)
    files = {path.name for path in (workspace / "mlartifacts").rglob("*") if path.is_file()}
    assert {"MLmodel", "policy-dvc.yaml", "commit.json", "report.json"} <= files
    assert not [name for name in files if "safetensors" in name]


def test_the_artifacts_are_no_stages_of_dvc(small_run: Run, uri: str, workspace: Path) -> None:
    version(small_run, 0, workspace, push=False)
    (workspace / ".dvcignore").unlink()
    register(small_run, 0, uri)
    with Repo(str(workspace)) as repo:
        assert repo.status() == {}


def test_the_same_commit_is_the_same_version(small_run: Run, uri: str, client: MlflowClient) -> None:
    assert register(small_run, 0, uri) == register(small_run, 0, uri)
    assert len(client.search_model_versions("name = 'raft-small'")) == 1


def test_the_alias_moves_to_a_better_iteration_and_back(
    small_run: Run, uri: str, client: MlflowClient, add_iteration: AddIteration
) -> None:
    add_iteration(small_run, 1)
    for iteration, expected in ((0, "1"), (1, "2"), (0, "1")):
        registered = register(small_run, iteration, uri)
        assert registered is not None
        assert registered.version == expected
        assert str(client.get_model_version_by_alias("raft-small", "candidate").version) == expected
    assert len(client.search_model_versions("name = 'raft-small'")) == 2


def test_a_model_that_a_killed_call_left_behind_is_taken_over(
    small_run: Run, uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            register(small_run, 0, uri)
    registered = register(small_run, 0, uri)
    assert registered is not None
    assert registered.version == "1"
    experiment = client.get_experiment_by_name("raft")
    assert experiment is not None
    models = client.search_logged_models([experiment.experiment_id])
    assert [str(model.status) for model in models] == ["READY"]


def test_the_base_is_not_registered(small_run: Run, uri: str, client: MlflowClient) -> None:
    assert register(small_run, BASE, uri) is None
    assert client.search_registered_models() == []


def test_a_server_that_is_away(small_run: Run) -> None:
    with pytest.raises(StepError, match=r"http://127\.0\.0\.1:9"):
        register(small_run, 0, "http://127.0.0.1:9", run_id="known")
