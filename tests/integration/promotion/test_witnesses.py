"""What ``raft lineage verify`` refuses is not promoted, approved, pulled, merged nor returned to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raft_core.files.artifacts import digest_of, json_digest, write_json
from raft_core.promotion.ledger import Entry, FileLedger
from raft_core.types import content_id
from tasks.tracking.aliases import apply
from tasks.tracking.registry import versions

Raft = Callable[..., tuple[int, str, str]]
Rules = Callable[..., str]
Entries = Callable[[], list[Entry]]


@pytest.fixture
def seen(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace, with its registry."""
    folder = tmp_path / "seen"
    shutil.copytree(workspace, folder, ignore=shutil.ignore_patterns("mlartifacts"))
    monkeypatch.setenv("RAFT_WORKSPACE", str(folder))
    return folder


@pytest.fixture
def number(seen: Path) -> int:
    """The last iteration that is registered (other tests register some too), made the last one of its run."""
    version = max(v.origin.iteration for v in versions(uri(seen)) if v.origin.run == "one")
    for later in (seen / "runs" / "one" / "iterations").iterdir():
        if int(later.name) > version:
            shutil.rmtree(later)
    return version


def uri(workspace: Path) -> str:
    return f"sqlite:///{workspace}/mlflow.db"


def forge(workspace: Path, number: int, *changed: tuple[str, str]) -> None:
    """Write the commit anew, sealed, with every digest of ``changed`` replaced: its chain still holds."""
    path = workspace / "runs" / "one" / "iterations" / f"{number:03d}" / "commit.json"
    text = path.read_text()
    for was, now in changed:
        assert was in text
        text = text.replace(was, now)
    content = {key: value for key, value in json.loads(text).items() if key != "content"}
    content["numerics"] = {**content["numerics"], "forged": True}
    path.chmod(0o644)
    write_json(path, {**content, "content": json_digest(content)})


def refused(raft: Raft, tmp_path: Path, rules: Rules, number: int, told: str) -> None:
    """Nothing that would bring the model out does."""
    out = tmp_path / "out"
    for command in (
        ("promote", f"one@{number}", "--rules", rules(), "--yes"),
        ("pull", f"one@{number}", "--to", str(out)),
        ("merge", f"one@{number}", str(out)),
    ):
        code, _, err = raft(*command)
        assert (code, told in err, out.exists()) == (4, True, False), (command, err)


def test_a_forged_last_commit_is_refused_by_what_the_registry_has_seen(
    raft: Raft, rules: Rules, seen: Path, number: int, entries: Entries, tmp_path: Path
) -> None:
    forge(seen, number)
    code, out, _ = raft("lineage", "verify", "one", "--json")
    assert (code, [p["kind"] for p in json.loads(out)["problems"]]) == (4, ["registry"])
    refused(raft, tmp_path, rules, number, "was registered from commit")
    assert entries() == []


def test_a_forged_last_commit_is_refused_by_what_the_ledger_has_seen(
    raft: Raft, rules: Rules, seen: Path, number: int, entries: Entries, tmp_path: Path
) -> None:
    assert raft("promote", f"one@{number}", "--rules", rules())[0] == 0
    (seen / "mlflow.db").unlink()
    forge(seen, number)
    code, out, _ = raft("lineage", "verify", "one", "--json")
    verified = json.loads(out)
    assert (code, [p["kind"] for p in verified["problems"]]) == (4, ["ledger"])
    assert any("there is no MLflow database" in unseen for unseen in verified["unseen"])
    refused(raft, tmp_path, rules, number, "entry 1 of the ledger is about commit")
    assert raft("pull", "champion", "--to", str(tmp_path / "out"))[0] == 4
    assert len(entries()) == 1


def test_other_weights_with_a_forged_commit_are_refused_by_their_pointer(
    raft: Raft, rules: Rules, seen: Path, number: int, entries: Entries, tmp_path: Path
) -> None:
    (seen / "mlflow.db").unlink()
    policy = seen / "runs" / "one" / "iterations" / f"{number:03d}" / "policy"
    facts = json.loads((policy.parent / "commit.json").read_text())["policy"]
    card = policy / "README.md"
    card.unlink(missing_ok=True)
    card.write_text("other weights")
    now = digest_of(policy)
    identity = content_id("policy", now, facts["base"])
    forge(seen, number, (facts["digest"], now), (facts["identity"], identity))
    code, out, _ = raft("lineage", "verify", "one", "--json")
    assert (code, [p["kind"] for p in json.loads(out)["problems"]]) == (4, ["pointer"])
    refused(raft, tmp_path, rules, number, "a pointer to other bytes")
    assert entries() == []


@pytest.mark.parametrize("left", [2, 1, 0])
def test_a_ledger_that_was_cut_off_brings_no_withdrawn_model_back(
    left: int, raft: Raft, rules: Rules, seen: Path, entries: Entries, tmp_path: Path
) -> None:
    raft("promote", "one@0", "--rules", rules())
    raft("promote", "one@1", "--rules", rules())
    body = {key: entries()[1].body[key] for key in ("commit", "policy", "run", "iteration")}
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    ledger.append("withdrawn", "raft-tiny", {**body, "reason": "gone"}, time="2026-01-01T00:00:00+00:00")
    apply(ledger, seen / "runs", uri(seen))
    older = b"".join(ledger.path.read_bytes().splitlines(keepends=True)[:left])
    ledger.path.write_bytes(older)
    refused(raft, tmp_path, rules, 1, "raft.ledger")
    if left:
        assert raft("pull", "champion", "--to", str(tmp_path / "out"))[0] == 4
        assert raft("rollback", "--to", entries()[0].body["commit"][:10], "--reason", "back")[0] == 4
    code, out, _ = raft("lineage", "verify", "one", "--json")
    assert (code, [p["kind"] for p in json.loads(out)["problems"]]) == (4, ["ledger"])
    assert ledger.path.read_bytes() == older


def test_no_rejection_and_no_withdrawal_follows_on_a_ledger_that_was_cut_off(
    raft: Raft, rules: Rules, seen: Path, entries: Entries, tmp_path: Path
) -> None:
    assert raft("promote", "one@0", "--rules", rules(approvals=1), "--by", "ann")[0] == 0
    path = tmp_path / "ledger.jsonl"
    older = path.read_bytes()
    body = {key: entries()[0].body[key] for key in ("commit", "policy", "run", "iteration")}
    ledger = FileLedger(path)
    ledger.append("withdrawn", "raft-tiny", {**body, "reason": "gone"}, time="2026-01-01T00:00:00+00:00")
    apply(ledger, seen / "runs", uri(seen))
    path.write_bytes(older)
    samples = pq.read_table(seen / "runs" / "one" / "iterations" / "000" / "tables" / "samples.parquet")
    for command in (
        ("reject", "1", "--by", "bob", "--reason", "no"),
        ("lineage", "forget", "--prompt", samples["prompt_id"][0].as_py(), "--yes"),
    ):
        code, _, err = raft(*command)
        assert (code, "raft.ledger" in err) == (4, True), (command, err)
    assert path.read_bytes() == older


def test_an_approval_asks_as_well(raft: Raft, rules: Rules, seen: Path, number: int, entries: Entries) -> None:
    policy = rules(approvals=1)
    assert raft("promote", f"one@{number}", "--rules", policy, "--by", "ann")[0] == 0
    forge(seen, number)
    code, _, err = raft("approve", "1", "--rules", policy, "--by", "bob")
    assert (code, "from git" in err) == (4, True)
    assert [entry.kind for entry in entries()] == ["requested"]


def test_a_workspace_without_a_registry_says_that_nobody_else_has_seen_it(
    raft: Raft, rules: Rules, seen: Path, entries: Entries
) -> None:
    (seen / "mlflow.db").unlink()
    code, _, err = raft("promote", "one@0", "--rules", rules(), "--dry-run")
    assert (code, "there is no MLflow database" in err) == (0, True)
    assert entries() == []
