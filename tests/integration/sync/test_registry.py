"""From a registered model back to its run, with MLflow's real registry (sqlite)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.lineage.origins import find_origin
from flows.models import find_policy
from raft_core.errors import ConfigError, InputError, IntegrityError
from raft_core.records.run import Run
from tasks.forgetting.withdraw import withdraw
from tasks.tracking.registry import register, versions


@pytest.mark.parametrize("reference", ["raft-small", "raft-small@candidate", "raft-small/1", "models:/raft-small/1"])
def test_a_model_leads_to_its_run(small_run: Run, uri: str, workspace: Path, reference: str) -> None:
    register(small_run, 0, uri)
    run, iteration = find_policy(workspace, reference, uri)
    assert (run.path, iteration) == (small_run.path, 0)


@pytest.mark.parametrize("reference", ["raft-other", "raft-other@champion", "raft-other/1", "../up", ""])
def test_what_is_no_model(small_run: Run, uri: str, workspace: Path, reference: str) -> None:
    register(small_run, 0, uri)
    with pytest.raises(ConfigError, match="neither a run nor a registered model"):
        find_policy(workspace, reference, uri)


@pytest.mark.parametrize(
    ("reference", "missing"),
    [
        ("raft-small", "alias candidate"),
        ("raft-small@champion", "alias champion"),
        ("raft-small/7", "version 7"),
        ("raft-small/x", "version x"),
    ],
)
def test_a_model_that_has_other_versions(
    small_run: Run, uri: str, workspace: Path, add_iteration: Callable[[Run, int], None], reference: str, missing: str
) -> None:
    register(small_run, 0, uri)
    add_iteration(small_run, 1)
    register(small_run, 1, uri)
    withdraw([v for v in versions(uri) if v.version == "2"], "a test", uri)
    for find in (find_policy, find_origin):
        with pytest.raises(InputError) as caught:
            find(workspace, reference, uri)
        text = str(caught.value)
        assert all(fact in text for fact in ("raft-small", missing.split()[-1], "1, 2", "withdrawn"))


def test_looking_up_creates_no_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        find_policy(tmp_path, "raft-small", f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_another_run_under_the_same_name_is_not_taken_for_it(small_run: Run, uri: str, workspace: Path) -> None:
    register(small_run, 0, uri)
    commit = small_run.folder(0) / "commit.json"
    commit.write_text(commit.read_text().replace('"iteration": 0', '"iteration":  0'))
    with pytest.raises(IntegrityError, match="raft-small"):
        find_policy(workspace, "raft-small", uri)


def test_a_model_of_somebody_else_is_told(uri: str, workspace: Path, client: MlflowClient) -> None:
    client.create_registered_model("theirs")
    client.create_model_version("theirs", str(workspace))
    with pytest.raises(InputError, match=r"(?s)theirs.*raft\.commit"):
        find_policy(workspace, "theirs/1", uri)
