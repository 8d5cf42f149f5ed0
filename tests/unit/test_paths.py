"""Names that become paths: whatever stands for a run, an iteration, an example or an output stays where it belongs."""

import json
from pathlib import Path

import pytest

from flows.models import find_policy
from raft_core.audit.lineage import commit_fault, lineage
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError, IntegrityError
from raft_core.examples import prepare, resolve
from raft_core.files.artifacts import json_digest
from raft_core.records.names import check_run_name
from raft_core.records.overview import find_run
from raft_core.records.run import BASE, open_run, read_commit, write_commit

CLIMBING = [
    "../outside",
    "..",
    "/etc",
    "a/b",
    "a\\b/..",
    ".hidden",
    "",
    "a\nb",
    "a\x00b",
    "~root",
    "runs/../..",
    "é",
    "x" * 200,
]


@pytest.mark.parametrize("name", CLIMBING)
def test_a_run_is_a_plain_folder_name(name: str, tmp_path: Path, small: RaftConfig) -> None:
    with pytest.raises(ConfigError):
        open_run(tmp_path / "runs", name, small)
    with pytest.raises(ConfigError):
        check_run_name(name)
    with pytest.raises(ConfigError):
        find_run(tmp_path, name)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "reference", [*CLIMBING, "made@../0", "made@1/..", "made@٣", "made@-1", "made@1e3", "models:/../x"]
)
def test_a_policy_reference_reaches_nothing_outside(reference: str, tmp_path: Path, small: RaftConfig) -> None:
    open_run(tmp_path / "runs", "made", small)
    with pytest.raises(ConfigError):
        find_policy(tmp_path, reference, f"sqlite:///{tmp_path}/none.db")


@pytest.mark.parametrize(
    "name", ["example:../tiny/policy", "example:/etc/passwd", "example:tiny/../policy", "example:"]
)
def test_a_world_and_its_part_are_names_of_a_table(name: str) -> None:
    with pytest.raises(ConfigError):
        resolve(name)
    with pytest.raises(ConfigError):
        prepare("../tiny")


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "tables/../../../x", ""])
def test_an_output_of_a_commit_lies_in_its_folder(name: str, tmp_path: Path, small: RaftConfig) -> None:
    run = open_run(tmp_path / "runs", "made", small)
    policy = {"identity": "i", "digest": "0" * 64, "base": None, "source": None}
    content = {"config": "c", "policy": policy, "sampled_from": None, "outputs": {name: "0" * 64}, "steps": {}}
    commit = write_commit(run, BASE, content)
    assert "output" in str(commit_fault(commit.content))
    with pytest.raises(IntegrityError, match="edited or foreign commit"):
        lineage(run, BASE)


def test_a_commit_of_another_iteration_is_foreign(tmp_path: Path, small: RaftConfig) -> None:
    run = open_run(tmp_path / "runs", "made", small)
    told = {"format": 1, "iteration": 3, "parent": None, "outputs": {}}
    path = run.folder(0) / "commit.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**told, "content": json_digest(told)}))
    with pytest.raises(IntegrityError, match="edited or foreign commit"):
        read_commit(run, 0)


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", "models:/x", ""])
def test_names_in_a_configuration_are_checked(name: str, small: RaftConfig) -> None:
    plain = small.model_dump(mode="json")
    for changed in ({**plain, "name": name}, {**plain, "tracking": {"model_name": name}}):
        with pytest.raises(ValueError, match="pattern"):
            RaftConfig.model_validate(changed)


@pytest.fixture
def small() -> RaftConfig:
    return RaftConfig.model_validate(
        {
            "name": "small",
            "policy": {"model": "m"},
            "prompts": {"train": "p.jsonl"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
        }
    )
