"""``raft config validate`` finds what an alignment would refuse before it samples, and leaves nothing behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import exits
from raft_core import examples
from raft_core.config.loading import check_config, load_config
from raft_core.errors import ConfigError, InputError, RaftError
from tasks.loop.examine import Examination, examine

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
Plain = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def tiny_world() -> None:
    examples.prepare("tiny")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plain:
    """The tiny example; the current folder is the workspace."""
    monkeypatch.chdir(tmp_path)
    return load_config(TINY).model_dump(mode="json")


def looked_at(plain: Plain, workspace: Path) -> Examination:
    return examine(check_config(plain, where="c.yaml"), workspace)


def refusal(plain: Plain, workspace: Path) -> RaftError:
    before = sorted(workspace.rglob("*"))
    with pytest.raises((ConfigError, InputError)) as caught:
        looked_at(plain, workspace)
    assert sorted(workspace.rglob("*")) == before, "nothing is written"
    assert exits.exit_code(caught.value) == exits.USERS_MISTAKE
    assert caught.value.hint
    return caught.value


def test_a_good_one_leaves_nothing_behind(plain: Plain, tmp_path: Path) -> None:
    found = looked_at(plain, tmp_path)
    assert (found.unprepared, found.faults) == ([], [])
    assert list(tmp_path.iterdir()) == []


def damaged_model(name: str) -> Callable[[Plain, Path], None]:
    def damage(plain: Plain, folder: Path) -> None:
        shutil.copytree(examples.resolve("example:tiny/policy"), folder / "model")
        for path in (folder / "model").glob(name):
            path.write_bytes(path.read_bytes()[:40]) if name.endswith("safetensors") else path.unlink()
        plain["policy"]["model"] = "model"

    return damage


def prompts(*texts: str) -> Callable[[Plain, Path], None]:
    def write(plain: Plain, folder: Path) -> None:
        (folder / "p.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        plain["prompts"] |= {"train": "p.jsonl", "held_out": None, "promotion": None}

    return write


def reward(source: str, name: str = "score") -> Callable[[Plain, Path], None]:
    def write(plain: Plain, folder: Path) -> None:
        if source:
            (folder / "mine.py").write_text(source)
        plain["scoring"]["rewards"] = [{"type": "function", "function": f"mine.py:{name}"}]

    return write


def put(part: str, key: str, value: object) -> Callable[[Plain, Path], None]:
    return lambda plain, folder: plain[part].__setitem__(key, value)


CASES: dict[str, tuple[Callable[[Plain, Path], None], str]] = {
    "no model folder": (put("policy", "model", "nowhere/model"), "nowhere/model"),
    "no tokenizer": (damaged_model("tokenizer*"), "tokenizer"),
    "weights that are cut": (damaged_model("*.safetensors"), "model.safetensors"),
    "no template": (put("policy", "chat_template", True), "chat template"),
    "no prompts file": (put("prompts", "train", "none.jsonl"), "none.jsonl"),
    "the same prompt twice": (prompts("a", "b", "a"), "same prompt"),
    "too few prompts": (prompts("a", "b", "c"), "fewer training prompts"),
    "a prompt beyond the context": (prompts(*(f"{n} " + "the film " * 400 for n in range(99))), "longer than"),
    "overlapping splits": (lambda p, _: put("prompts", "held_out", p["prompts"]["train"])(p, _), "held-out"),
    "no reward file": (reward(""), "mine.py"),
    "no such function": (reward("def other(prompts, completions):\n    return []\n"), "no function score"),
    "another signature": (reward("def score(x):\n    return 1\n"), "parameters (x)"),
    "a syntax error": (reward("def score(:\n"), "syntax error"),
    "no classifier": (lambda p, _: p["scoring"].update(gold=[{"type": "classifier", "model": "x/y/z"}]), "x/y/z"),
    "no text for the perplexity": (put("evaluation", "perplexity_text", "none.txt"), "none.txt"),
    "an unknown part": (put("policy", "model", "example:tiny/engine"), "no asset 'engine'"),
    "no signal": (put("sampling", "samples_per_prompt", 1), "validation.min_signal_share"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_align_would_refuse(case: str, plain: Plain, tmp_path: Path) -> None:
    change, told = CASES[case]
    change(plain, tmp_path)
    assert told in str(refusal(plain, tmp_path))


def test_faults_of_independent_parts_are_told_at_once(plain: Plain, tmp_path: Path) -> None:
    for case in ("no model folder", "no reward file", "no text for the perplexity", "no prompts file"):
        CASES[case][0](plain, tmp_path)
    plain["prompts"]["held_out"] = "gone.csv"
    told = str(refusal(plain, tmp_path))
    assert "5 faults" in told.splitlines()[0]
    for part in ("nowhere/model", "mine.py", "none.txt", "none.jsonl", "gone.csv"):
        assert part in told


def test_a_workspace_that_cannot_be_written(plain: Plain, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "RAFT_WORKSPACE" in str(refusal(plain, tmp_path / "file"))


def test_parts_that_are_not_prepared_are_named_and_not_fetched(
    plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    found = looked_at(plain, tmp_path)
    assert any("example:tiny/policy is not prepared" in part for part in found.unprepared)
    assert list(tmp_path.iterdir()) == []
    plain["scoring"]["rewards"] = [{"type": "function", "function": "none.py:score"}]
    assert "none.py" in str(refusal(plain, tmp_path))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli.app import app

    monkeypatch.setenv("RAFT_WORKSPACE", str(tmp_path))

    def raft(*arguments: str) -> tuple[int, str, str]:
        code = exits.run_command(app, arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    code, out, err = raft("config", "validate", str(TINY))
    assert (code, err) == (exits.DONE, "")
    assert "is valid; its run is called tiny-" in out
    code, out, err = raft("config", "validate", str(TINY), "policy.model=nowhere/at/all", "prompts.train=none.jsonl")
    assert (code, out) == (exits.USERS_MISTAKE, "")
    assert "nowhere/at/all" in err
    assert "none.jsonl" in err
    assert not (tmp_path / "runs").exists()
