"""Bad input of every kind ends in one clear error: what, got, expected, try; nothing finished is touched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import exits
from flows.loop import align
from flows.loop.align import align_run
from raft_core import examples
from raft_core.config.loading import check_config, load_config
from raft_core.errors import ConfigError, GateStop, InputError, IntegrityError, RaftError, RunMismatchError
from raft_core.records.overview import view_run
from raft_core.records.run import hold, open_run, read_run
from tasks.loop.prepare import prepare

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


@pytest.fixture(scope="module", autouse=True)
def tiny_world() -> None:
    examples.prepare("tiny")


@pytest.fixture
def plain() -> dict[str, Any]:
    config = load_config(TINY).model_dump(mode="json")
    config["versioning"]["enabled"] = False
    return config


def refused(plain: dict[str, Any], workspace: Path) -> RaftError:
    """The error of an alignment that must not begin: no model was loaded, no row was committed."""
    with pytest.raises(RaftError) as caught:
        align_plain(plain, workspace)
    assert not list(workspace.glob("runs/*/base/commit.json"))
    assert caught.value.hint, f"does not say what to do: {caught.value}"
    return caught.value


def align_plain(plain: dict[str, Any], workspace: Path) -> None:
    config = check_config(plain, where="bad.yaml")
    align_run(config, name="bad", workspace=workspace, tracking_uri=f"sqlite:///{workspace}/mlflow.db")


def prompt(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


PROMPT_FILES: dict[str, tuple[list[bytes] | None, str]] = {
    "missing": (None, "prompts.jsonl"),
    "empty": ([], "no prompt"),
    "not UTF-8": ([prompt("good"), b'{"text": "\xff\xfe"}'], "UTF-8"),
    "no text": ([b'{"body": "a film"}'], "text"),
    "duplicate": ([prompt("the film"), prompt("a play"), prompt("the film")], "same prompt"),
    "longer than the context": ([prompt("the film " * 400), prompt("a")], "longer"),
}


@pytest.mark.parametrize("case", PROMPT_FILES)
def test_prompts(case: str, plain: dict[str, Any], tmp_path: Path) -> None:
    rows, told = PROMPT_FILES[case]
    path = tmp_path / "prompts.jsonl"
    if rows is not None:
        path.write_bytes(b"".join(row + b"\n" for row in rows))
    plain["prompts"]["train"] = str(path)
    error = refused(plain, tmp_path)
    assert isinstance(error, InputError)
    assert told.lower() in str(error).lower()


def test_held_out_prompts_inside_the_training_prompts(plain: dict[str, Any], tmp_path: Path) -> None:
    plain["prompts"]["held_out"] = plain["prompts"]["train"]
    assert "held-out" in str(refused(plain, tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("samples_per_prompt", 0, "sampling.samples_per_prompt"), ("temperature", 0, "temperature 0 gives")],
)
def test_sampling_that_cannot_work(key: str, value: object, told: str, plain: dict[str, Any], tmp_path: Path) -> None:
    plain["sampling"][key] = value
    error = refused(plain, tmp_path)
    assert isinstance(error, ConfigError)
    assert told in str(error)


def test_an_unknown_reward(plain: dict[str, Any], tmp_path: Path) -> None:
    plain["scoring"]["rewards"][0]["type"] = "lexicn"
    assert "scoring.rewards.0" in str(refused(plain, tmp_path))


def test_a_reward_file_with_a_syntax_error(plain: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward(prompts, completions):\n    return [1 for\n")
    plain["scoring"]["rewards"] = [{"type": "function", "function": f"{tmp_path}/mine.py:reward"}]
    error = refused(plain, tmp_path)
    assert isinstance(error, ConfigError)
    assert "mine.py" in str(error)
    assert "2" in str(error)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("mine.py:one", "parameters (prompt)"),
        ("mine.py:two", "the functions one"),
        ("none.py:one", "none.py"),
        ("mine.py:fails", "type int"),
        ("no_such_module:f", "no_such_module"),
        ("bad.py:f", "ZeroDivision"),
    ],
)
def test_a_wrong_reward_is_the_users_mistake(named: str, told: str, plain: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def one(prompt):\n    return 1\nfails = 3\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    where = f"{tmp_path}/" if ".py" in named else ""
    plain["scoring"]["rewards"] = [{"type": "function", "function": f"{where}{named}"}]
    error = refused(plain, tmp_path)
    assert told in str(error)
    assert exits.exit_code(error) == exits.USERS_MISTAKE


def test_several_wrong_rewards_are_too(plain: dict[str, Any], tmp_path: Path) -> None:
    plain["scoring"]["rewards"] = [{"type": "function", "name": n, "function": f"{n}.py:f"} for n in ("a", "b")]
    assert exits.exit_code(refused(plain, tmp_path)) == exits.USERS_MISTAKE


CONSTANT = "def reward(prompts, completions):\n    return [1.0] * len(completions)\n"


def test_a_constant_reward_stops_before_anything_is_trained(plain: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CONSTANT)
    plain["scoring"]["rewards"] = [{"type": "function", "function": f"{tmp_path}/mine.py:reward"}]
    plain["sampling"] |= {"prompts_per_iteration": 8}
    plain["prompts"] |= {"max_held_out": 8}
    with pytest.raises(GateStop, match="scored") as stop:
        align_plain(plain, tmp_path)
    assert exits.exit_code(stop.value) == exits.STOPPED_BY_GATE
    assert "validation.min_signal_share" in str(stop.value)
    assert not list(tmp_path.glob("runs/bad/iterations/*/policy"))
    view = view_run(read_run(tmp_path / "runs" / "bad"))
    assert view.status == "stopped"
    assert "8 of 8" in view.reason


def test_one_candidate_a_prompt_is_refused_before_sampling(plain: dict[str, Any], tmp_path: Path) -> None:
    plain["sampling"] |= {"samples_per_prompt": 1}
    error = refused(plain, tmp_path)
    assert "validation.min_signal_share: 0" in str(error)
    assert exits.exit_code(error) == exits.USERS_MISTAKE


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def cut_in_half(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


@pytest.mark.parametrize(("damage", "told"), [(without_tokenizer, "tokenizer"), (cut_in_half, "model.safetensors")])
def test_a_damaged_model_folder(
    damage: Callable[[Path], None], told: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(examples.resolve("example:tiny/policy"), folder)
    damage(folder)
    plain["policy"]["model"] = str(folder)
    assert told in str(refused(plain, tmp_path))


def test_a_model_without_a_chat_template(plain: dict[str, Any], tmp_path: Path) -> None:
    plain["policy"]["chat_template"] = True
    assert "chat template" in str(refused(plain, tmp_path))


def test_a_mended_configuration_may_take_the_name(plain: dict[str, Any], tmp_path: Path) -> None:
    good = plain["prompts"]["train"]
    plain["prompts"]["train"] = str(tmp_path / "nowhere.jsonl")
    refused(plain, tmp_path)
    plain["prompts"]["train"], plain["policy"]["chat_template"] = good, True
    assert not isinstance(refused(plain, tmp_path), RunMismatchError)


def test_a_run_that_was_started_before_keeps_its_configuration(plain: dict[str, Any], tmp_path: Path) -> None:
    """As a kill in the base's evaluation leaves it: begun, without a commit."""
    prompts = tmp_path / "prompts.jsonl"
    shutil.copy(examples.resolve(plain["prompts"]["train"]), prompts)
    plain["prompts"]["train"] = str(prompts)
    run = open_run(tmp_path / "runs", "bad", check_config(plain, where="bad.yaml"))
    with hold(run):
        prepare(run)
    prompts.unlink()
    refused(plain, tmp_path)
    assert read_run(run.path).config == run.config


def test_without_git_a_run_does_not_know_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert align._surroundings()["git_commit"] is None


def test_a_finished_run_is_not_touched_by_a_foreign_configuration_or_an_edited_commit(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    plain["iterations"] = 1
    plain["sampling"] |= {"prompts_per_iteration": 8}
    plain["prompts"] |= {"max_held_out": 16}
    arguments = {"name": "kept", "workspace": tmp_path, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    align_run(check_config(plain, where="good.yaml"), **arguments)
    run = tmp_path / "runs" / "kept"
    commit = run / "iterations" / "000" / "commit.json"
    before = commit.read_bytes()

    other = yaml.safe_load(yaml.safe_dump(plain))
    other["sampling"]["temperature"] = 0.5
    with pytest.raises(RunMismatchError, match=r"sampling\.temperature"):
        align_run(check_config(other, where="other.yaml"), **arguments)
    assert commit.read_bytes() == before

    edited = json.loads(before)
    edited["sampled_from"] = "0" * 32
    commit.write_text(json.dumps(edited))
    with pytest.raises(IntegrityError, match=r"commit\.json"):
        align_run(check_config(plain, where="good.yaml"), **arguments)
    assert (run / "iterations" / "000" / "tables" / "selected.parquet").exists()
