"""Ten processes that promote at once: one champion, every attempt in the ledger, the alias where it belongs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from flows.promotion.promote import Place, Question, promote_model
from raft_core.files.artifacts import digest_of
from raft_core.promotion.ledger import Entry, chain_faults, current
from raft_core.records.run import Run, read_commit, read_run, write_commit
from raft_core.types import content_id

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

TEN = range(2, 12)


def add_candidate(run: Run, number: int) -> None:
    """An iteration like 1 with weights of its own, in a chain that verifies."""
    before, folder = run.folder(1), run.folder(number)
    shutil.copytree(before, folder, ignore=shutil.ignore_patterns("commit.json", "*.dvc"))
    weights = folder / "policy" / "adapter_model.safetensors"
    scaled = {name: value * (1 + number / 100) for name, value in load_file(weights).items()}
    weights.unlink()
    save_file(scaled, weights, metadata={"format": "pt"})
    commit = read_commit(run, 1)
    assert commit is not None
    content = json.loads(json.dumps(commit.content))
    digest = digest_of(folder / "policy")
    identity = content_id("policy", digest, content["policy"]["base"])
    content["policy"] |= {"digest": digest, "identity": identity}
    content["outputs"]["policy"] = content["steps"]["finetune"]["outputs"]["policy"] = digest
    content["steps"]["evaluate"]["inputs"]["policy"] = identity
    write_commit(run, number, {key: value for key, value in content.items() if key != "content"})


def test_ten_at_once(
    copied: Path, tmp_path: Path, rules: Callable[..., str], entries: Callable[[], list[Entry]]
) -> None:
    run = read_run(copied / "runs" / "one")
    for number in TEN:
        add_candidate(run, number)
    policy = Path(rules())
    place = Place(copied, f"sqlite:///{copied}/mlflow.db", str(tmp_path / "evidence.jsonl"))
    for number in TEN:  # the evidence is there before the race begins
        promote_model(Question(f"one@{number}", "ann", "", policy, dry_run=True), place)
    raft = [sys.executable, "-c", "from flows.cli.app import main; main()"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    processes = [
        subprocess.Popen(
            [*raft, "promote", f"one@{number}", "--rules", str(policy), "--json"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in TEN
    ]
    told = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, told
    written = entries()
    assert chain_faults(written) == []
    assert [entry.kind for entry in written] == ["promoted"] * 10
    assert sorted(entry.body["iteration"] for entry in written) == list(TEN)
    before = [None, *(entry.body["commit"] for entry in written[:-1])]
    assert [entry.body["champion"] for entry in written] == before
    standing = current(written, "raft-tiny")
    assert standing.champion is not None
    assert standing.previous is not None
    assert (standing.champion.commit, standing.previous.commit) == tuple(e.body["commit"] for e in written[:-3:-1])

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{copied}/mlflow.db")
    for alias, holder in (("champion", standing.champion), ("previous", standing.previous)):
        assert client.get_model_version_by_alias("raft-tiny", alias).tags["raft.commit"] == holder.commit
