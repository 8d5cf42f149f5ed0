"""A reward that changes in the middle of a run stops it; accepted, it becomes a part of the records."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.cli import exits
from flows.cli.app import app
from flows.exports.audit_data import sections
from flows.exports.dossier import open_dossier
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.records.run import read_chain, read_run

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
REWARD = """
import os
from helper import FACTOR

def good(prompts, completions):
    print("a reward prints")
    if os.path.exists("change"):   # somebody edits a helper while the run goes on
        os.remove("change")
        with open("helper.py", "w") as file:
            file.write("FACTOR = 2.0\\n")
    return [FACTOR * text.count("good") + len(set(text.split())) / 100 for text in completions]
"""

Raft = Callable[..., tuple[int, str, str]]


@pytest.fixture
def raft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Raft:
    monkeypatch.setenv("RAFT_WORKSPACE", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = exits.run_command(app, arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_change_stops_the_run_and_is_recorded_once_accepted(raft: Raft, tmp_path: Path) -> None:
    examples.prepare("tiny")
    config = load_config(TINY).model_dump(mode="json")
    config |= {"iterations": 1, "versioning": {**config["versioning"], "enabled": False}}
    config["sampling"] |= {"prompts_per_iteration": 8}
    config["prompts"] |= {"max_held_out": 16}
    config["scoring"]["rewards"] = [{"type": "function", "function": "mine.py:good"}]
    Path("config.yaml").write_text(yaml.safe_dump(config))
    Path("mine.py").write_text(REWARD)
    Path("helper.py").write_text("FACTOR = 1.0\n")
    Path("change").touch()

    code, out, err = raft("align", "config.yaml", "--name", "one", "--json")
    assert code == exits.USERS_MISTAKE
    assert "reward 'function': helper changed" in err
    assert "a reward prints" in err
    assert json.loads(out)["error"]["kind"] == "ConfigError"

    run = read_run(tmp_path / "runs" / "one")
    assert [commit.iteration for commit in read_chain(run)] == [-1]
    code, _, err = raft("resume", "one", "--quiet")
    assert (code, "--accept-reward-change" in err) == (exits.USERS_MISTAKE, True)

    code, out, _ = raft("resume", "one", "--quiet", "--accept-reward-change", "--json")
    assert (code, json.loads(out)["status"]) == (exits.DONE, "completed")
    of = [commit.content["rewards"]["function"] for commit in read_chain(run)]
    assert of[0]["mine.py"] == of[1]["mine.py"]
    assert of[0]["helper"] != of[1]["helper"]
    assert "helper changed" in raft("show", "one")[1]
    facts = dict(sections(open_dossier(run, None, resolve=lambda _: None))["made"])
    assert re.search(r"helper changed .*accepted.*iteration 0\b", facts["code and data of the rewards"])
    assert os.getcwd() == str(tmp_path)
