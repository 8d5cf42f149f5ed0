"""A model that is trained from another one descends from it, also through a plain folder that RAFT wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.cli.commands.shell import show_end
from flows.loop.align import align_run
from raft_core.audit.lineage import ancestors, ancestors_of
from raft_core.config.loading import load_config
from raft_core.promotion.ledger import Entry, FileLedger
from raft_core.records.run import Run, read_commit
from tasks.tracking.aliases import read_witnesses

ROOT = Path(__file__).parents[3]
SHORT = [
    "iterations=1",
    "sampling.prompts_per_iteration=8",
    "prompts.max_held_out=8",
    "versioning.push=false",
    "evaluation.bootstrap_resamples=200",
]
Raft = Callable[..., tuple[int, str, str]]
Rules = Callable[..., str]


@pytest.mark.parametrize("command", [["pull", "one@0", "--to"], ["merge", "one@0"]], ids=["pull", "merge"])
def test_through_a_plain_folder(
    command: list[str],
    copied: Path,
    raft: Raft,
    raft_json: Callable[..., Any],
    run: Run,
    tmp_path: Path,
    rules: Rules,
    entries: Callable[[], list[Entry]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = tmp_path / "plain"
    assert raft("promote", "one@0", "--rules", rules())[0] == 0
    assert raft(*command, str(plain))[0] == 0
    config = load_config(ROOT / "configs" / "tiny.yaml", [*SHORT, f"policy.model={plain}"])
    align_run(config, name="child", workspace=copied, tracking_uri=f"sqlite:///{copied}/mlflow.db")
    commit = read_commit(run, 0)
    assert commit is not None
    assert f"written from commit {commit.digest[:12]}" in raft("lineage", "show", "child")[1]

    sample = pq.read_table(run.table(0, "selected"))["sample_id"][0].as_py()
    found = {
        (m["run"], m["iteration"]): m["through"] for m in raft_json("lineage", "find", "--sample", sample)["models"]
    }
    assert (found["one", 0], found["child", -1], found["child", 0]) == (None, "one@0", "one@0")

    prompt = pq.read_table(run.table(0, "selected"))["prompt_id"][0].as_py()
    code, _, err = raft("lineage", "forget", "--prompt", prompt, "--yes")
    assert code == 0, err
    last = entries()[-1]
    assert read_witnesses(f"sqlite:///{copied}/mlflow.db") == {"raft-tiny": f"{last.number} {last.digest}"}
    show_end(copied, "one", nothing_to_do=True, as_json=False)
    assert "was withdrawn by entry" in capsys.readouterr().out
    withdrawn = {(e.body["run"], e.body["iteration"]) for e in entries() if e.kind == "withdrawn"}
    assert {("one", 0), ("one", 1), ("child", 0)} <= withdrawn
    assert raft("promote", "child@0", "--rules", rules())[0] == 3

    grandchild = tmp_path / "grandchild"
    assert raft("merge", "child@0", str(grandchild))[0] == 0
    assert [each.commit for each in ancestors_of(grandchild)][2:] == [each.commit for each in ancestors_of(plain)]
    config = load_config(ROOT / "configs" / "tiny.yaml", [*SHORT, f"policy.model={grandchild}"])
    align_run(config, name="grand", workspace=copied, tracking_uri=f"sqlite:///{copied}/mlflow.db")
    code, _, err = raft("promote", "grand@0", "--rules", rules())
    assert (code, "grand@0 was trained from child@0, which was withdrawn" in err) == (3, True)


def test_what_is_trained_after_the_withdrawal(
    raft: Raft, rules: Rules, run: Run, tmp_path: Path, entries: Callable[[], list[Entry]]
) -> None:
    first = read_commit(run, 0)
    assert first is not None
    body = {"commit": first.digest, "policy": first.content["policy"]["identity"], "run": "one", "iteration": 0}
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    ledger.append("withdrawn", "raft-tiny", {**body, "reason": "a source must go"}, time="2026-01-01T00:00:00+00:00")
    for command in (("promote", "one@1", "--rules", rules()), ("pull", "one@1", "--to", str(tmp_path / "out"))):
        code, _, err = raft(*command)
        assert (code, "one@1 was trained from one@0, which was withdrawn by entry 1" in err) == (3, True), err
    assert len(entries()) == 1


def test_a_manifest_that_somebody_edited_is_what_it_says(raft: Raft, tmp_path: Path, run: Run) -> None:
    plain = tmp_path / "plain"
    assert raft("merge", "one@0", str(plain))[0] == 0
    manifest = json.loads((plain / "raft.json").read_bytes())
    itself, base = ancestors_of(plain)
    assert (itself.commit, itself.policy) == (manifest["commit"], manifest["policy"])
    assert base == ancestors_of(plain)[-1] == next(iter(ancestors(run, 0)))
    for text in ("", "[]", "{}", '{"commit": 1, "policy": 2}', '{"commit": "../x", "policy": "y"}', "[" * 100_000):
        (plain / "raft.json").write_text(text)
        assert ancestors_of(plain) == ()
