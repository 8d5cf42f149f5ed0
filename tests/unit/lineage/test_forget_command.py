"""``raft lineage forget`` in words: what it would touch, what it did, what it leaves to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli import exits
from flows.cli.app import app
from flows.forgetting import forget
from raft_core.promotion.ledger import FileLedger
from raft_core.records.run import Run, read_chain, read_commit
from raft_core.types import Prompt
from tasks.tracking.registry import register

pytestmark = pytest.mark.slow

Raft = Callable[..., tuple[int, str, str]]
MODEL = "raft-traced"
OFF = {"enabled": False}


@pytest.fixture
def raft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Raft:
    """Run one command line in the workspace ``tmp_path``: exit code, standard output (unwrapped), standard error."""
    monkeypatch.setenv("RAFT_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "500")
    for name in ("MLFLOW_TRACKING_URI", "RAFT_LEDGER"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = exits.run_command(app, arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def first(make_run: Callable[..., Run], tmp_path: Path) -> Run:
    """``first@0`` was the champion before ``first@1`` is; ``child`` starts from that one."""
    run = make_run(versioning=OFF)
    make_run(
        "child", key="other", texts=[["other"], ["other"]], base=read_chain(run)[-1].outputs["policy"], versioning=OFF
    )
    for iteration in (0, 1):
        commit = read_commit(run, iteration)
        assert commit is not None
        register(run, iteration, f"sqlite:///{tmp_path}/mlflow.db")
        body = {
            "commit": commit.digest,
            "policy": commit.content["policy"]["identity"],
            "run": "first",
            "iteration": iteration,
        }
        FileLedger(tmp_path / "ledger.jsonl").append("promoted", MODEL, body, time="2026-01-01T00:00:00+00:00")
    return run


def test_the_titles_of_what_goes_and_the_way_back(first: Run, raft: Raft) -> None:
    code, out, _ = raft("lineage", "forget", "--text", "three says 1 in 1", "--erase", "--yes")
    assert code == exits.DONE
    assert f"versions to withdraw: {MODEL} version 2 (champion, candidate)" in out
    assert "models trained on it: child@base (through first@1), child@0 (through first@1), child@1 (through" in out
    assert "first@1 (champion, candidate)" in out
    (erased,) = [line for line in out.splitlines() if line.startswith("ERASED")]
    assert "first" in erased
    assert {"DVC", "Prefect"} <= {word.strip("',s") for word in erased.replace("'", " ").split()}
    assert f"raft rollback --model {MODEL} --reason WHY" in out
    assert "first@0" in out
    assert "unlearn" in out
    assert "git add ledger.jsonl runs" in out
    _, out, err = raft("lineage", "forget", "--prompt", Prompt.of("held out").prompt_id, "--yes")
    assert "git add exclusions.jsonl ledger.jsonl runs" in out
    assert "later runs" in out
    assert len(err.splitlines()) == 1
    assert "excluded" not in out


def test_without_erasing(first: Run, raft: Raft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = FileLedger(tmp_path / "elsewhere.jsonl")
    (tmp_path / "ledger.jsonl").rename(said.path)
    monkeypatch.setenv("RAFT_LEDGER", str(said.path.rename(tmp_path.parent / "elsewhere.jsonl")))
    document: dict[str, Any] = json.loads(raft("lineage", "forget", "--text", "two says 0 in 0", "--json", "--yes")[1])
    assert [m["titles"] for m in document["plan"]["models"] if m["run"] == "first"] == [
        ["previous"],
        ["champion", "candidate"],
    ]
    assert document["done"]["champions"] == {MODEL: None}
    assert document["done"]["to_commit"] == ["runs"]
    assert document["done"]["not_erased"] == []
    _, out, _ = raft("lineage", "forget", "--text", "three says 1 in 1", "--yes")
    assert "promote one that was not trained on it" in out
    assert "rollback" not in out
    assert "--erase" in out


def test_a_held_out_set_is_no_model(first: Run, raft: Raft) -> None:
    _, out, _ = raft("lineage", "forget", "--text", "held out", "--yes")
    assert "first@base" in out
    assert "models trained on it: none" in out


@pytest.mark.parametrize("reference", ["prompts.txt", "example:reviews/prompts.train"])
def test_a_prompt_file_of_ones_own_and_one_that_raft_prepared(
    make_run: Callable[..., Run], raft: Raft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("two\nfour\n")
    monkeypatch.setattr(forget, "resolve", lambda named: file)
    make_run(versioning=OFF, prompts={"train": reference})
    _, out, _ = raft("lineage", "forget", "--prompt", Prompt.of("two").prompt_id, "--erase", "--yes")
    assert ("left to you: " in out and "prompt file" in out) == (reference == "prompts.txt")
    assert ("the prepared data of an example still contains it" in out) == (reference != "prompts.txt")
