"""Promotion on the tiny example, with the real MLflow: gates, aliases, rollback, outages, tampering."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from raft_core.errors import RunBusyError
from raft_core.files.artifacts import digest_of, file_digest
from raft_core.forgetting.erasure import Erased, write_tombstone
from raft_core.promotion.ledger import Entry, FileLedger
from raft_core.records.collected import no_live_run
from raft_core.records.run import Run, read_commit, read_events
from raft_core.records.tables import SCORED, read_table, write_table
from tasks.promotion.evidence import gather
from tasks.tracking.aliases import apply

Raft = Callable[..., tuple[int, str, str]]
Entries = Callable[[], list[Entry]]
Rules = Callable[..., str]


def aliases(workspace: Path) -> dict[str, int]:
    """alias → iteration that it points to."""
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    model = client.get_registered_model("raft-tiny")
    return {
        alias: int(client.get_model_version("raft-tiny", str(version)).tags["raft.iteration"])
        for alias, version in model.aliases.items()
        if alias != "candidate"
    }


def test_promote_again_and_roll_back(
    raft: Raft, raft_json: Callable[..., Any], rules: Rules, entries: Entries, workspace: Path, run: Run
) -> None:
    first = raft_json("promote", "one@0", "--rules", rules(), "--reason", "a first one")
    commit = read_commit(run, 0)
    assert commit is not None
    assert (first["status"], first["entry"]["body"]["commit"]) == ("promoted", commit.digest)
    body = first["entry"]["body"]
    assert (body["requested_by"], body["reason"], body["against"]["iteration"]) == ("ann", "a first one", -1)
    assert aliases(workspace) == {"champion": 0}
    second = raft_json("promote", "one@1", "--rules", rules(), "--by", "bob")
    assert second["entry"]["body"]["champion"] == commit.digest
    assert aliases(workspace) == {"champion": 1, "previous": 0}
    code, out, _ = raft("promote", "one@1", "--rules", rules())
    assert (code, "already" in out) == (0, True)
    back = raft_json("rollback", "--reason", "it talks nonsense")
    assert (back["status"], back["entry"]["body"]["commit"]) == ("rolled_back", commit.digest)
    assert aliases(workspace) == {"champion": 0}
    assert [e.kind for e in entries()] == ["promoted", "promoted", "rolled_back"]
    version = str(
        MlflowClient(f"sqlite:///{workspace}/mlflow.db").get_registered_model("raft-tiny").aliases["champion"]
    )
    assert raft("rollback", "--to", version, "--reason", "again")[1].count("already") == 1
    forward = raft_json("rollback", "--to", second["entry"]["body"]["commit"][:10], "--reason", "it was fine")
    assert forward["entry"]["body"]["iteration"] == 1
    code, out, _ = raft("ledger")
    assert (code, out.count("rolled_back"), out.count("★")) == (0, 2, 1)
    assert "entries: 4" in raft("ledger", "verify", "--last", entries()[1].digest)[1]
    assert raft("ledger", "verify", "--last", "f" * 64)[0] == 4


def test_closed_gates_refuse_with_their_figures(raft: Raft, rules: Rules, entries: Entries) -> None:
    policy = rules({"min_reward_gain": 5.0, "max_kl": 9.0})
    code, out, err = raft("promote", "one", "--rules", policy)
    assert (code, err.count("error")) == (3, 0)
    assert "gates.min_reward_gain" in out
    (entry,) = entries()
    findings = {f["gate"]: f for f in entry.body["decision"]["findings"]}
    assert entry.kind == "refused"
    assert findings["kl"]["passed"]
    assert not findings["reward"]["passed"]
    assert findings["reward"]["low"] <= findings["reward"]["value"] <= findings["reward"]["high"]
    assert findings["paired_prompts"]["value"] == 256


def test_a_dry_run_writes_nothing(raft: Raft, rules: Rules, entries: Entries) -> None:
    assert raft("promote", "one", "--rules", rules(), "--dry-run")[0] == 0
    assert raft("promote", "one", "--rules", rules({"min_reward_gain": 5.0}), "--dry-run")[0] == 3
    assert entries() == []


def test_evidence_is_measured_once(
    raft: Raft, rules: Rules, workspace: Path, monkeypatch: pytest.MonkeyPatch, entries: Entries
) -> None:
    raft("promote", "one@0", "--rules", rules())

    def loads(*_: object, **__: object) -> None:
        raise AssertionError("a model is looked at again")

    for name in ("tasks.loop.measure.Subject.open", "transformers.AutoConfig.from_pretrained"):
        monkeypatch.setattr(name, loads)
    code, _, err = raft("promote", "one@0", "--rules", rules({"max_kl": 5.0}), "--dry-run")
    assert code == 0, err
    evidence = entries()[0].body["evidence"]
    folders = {digest_of(path) for path in (workspace / "promotions").iterdir() if (path / "evidence.json").exists()}
    assert {evidence["candidate"], evidence["reference"]} <= folders


def test_evidence_that_grew_too_old_is_kept_under_its_digest(
    raft: Raft, rules: Rules, copied: Path, monkeypatch: pytest.MonkeyPatch, entries: Entries
) -> None:
    from datetime import UTC, datetime, timedelta

    policy = rules({"min_reward_gain": 5.0})
    raft("promote", "one@0", "--rules", policy)
    evidence = entries()[0].body["evidence"]
    monkeypatch.setattr("flows.promotion.promote.now", lambda: datetime.now(UTC) + timedelta(days=30))

    def crashes(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("tasks.promotion.evidence._measure", crashes)
    assert raft("promote", "one@0", "--rules", policy)[0] == 4
    kept = {digest_of(path) for path in (copied / "promotions").iterdir() if (path / "evidence.json").exists()}
    assert {evidence["candidate"], evidence["reference"]} <= kept


def test_prompts_that_were_all_trained_on_compare_nothing(
    raft: Raft, rules: Rules, entries: Entries, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    from raft_core import examples
    from raft_core.prompts.splits import split_prompts

    promotion = split_prompts(run.config.prompts, run.config.seed, examples.resolve).promotion
    monkeypatch.setattr("tasks.promotion.evidence._trained_on", lambda _: [prompt.prompt_id for prompt in promotion])
    code, _, err = raft("promote", "one", "--rules", rules())
    assert (code, "256 prompts" in err) == (2, True)
    assert entries() == []


def test_nothing_is_collected_while_a_model_is_measured(
    raft: Raft, rules: Rules, entries: Entries, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy: list[str] = []

    def measured(*arguments: Any, **more: Any) -> Any:
        with pytest.raises(RunBusyError) as caught, no_live_run(workspace / "runs"):
            pass
        busy.append(str(caught.value))
        return gather(*arguments, **more)

    monkeypatch.setattr("flows.promotion.promote.gather", measured)
    assert raft("promote", "one@0", "--rules", rules())[0] == 0
    assert ["promoted" in told for told in busy] == [True, True]
    with no_live_run(workspace / "runs"):
        assert [entry.kind for entry in entries()] == ["promoted"]


def test_no_is_an_answer(
    raft: Raft, rules: Rules, entries: Entries, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda _: False)
    code, out, _ = raft("promote", "one@0", "--rules", rules())
    assert (code, "nothing was written" in out and "would be promoted" in out) == (3, True)
    assert entries() == []


def test_a_suite_that_no_model_can_answer_is_refused_before_one_loads(
    raft: Raft, rules: Rules, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"name": "endless", "prompts": ["on and " * 500], "require": "end"}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"cases": [case]}))
    loaded: list[object] = []
    monkeypatch.setattr("tasks.loop.measure.Subject.open", lambda *a: loaded.append(a))
    code, _, err = raft("promote", "one", "--rules", rules(safety="suite.yaml"))
    assert code == 2
    assert "1 of 257 prompts are longer" in err
    assert loaded == []


def test_an_unverified_model_is_not_promoted(raft: Raft, rules: Rules, entries: Entries, copied: Path) -> None:
    table = copied / "runs" / "one" / "iterations" / "000" / "tables" / "scored.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.unlink()
    table.write_bytes(bytes(data))
    code, _, err = raft("promote", "one@1", "--rules", rules())
    assert code == 4
    assert "does not verify" in err
    assert "scored.parquet" in err
    assert entries() == []


def test_an_erasure_that_the_ledger_does_not_know_is_not_promoted(
    raft: Raft, rules: Rules, entries: Entries, copied: Path
) -> None:
    """Whoever changes a table can seal a tombstone for it."""
    folder = copied / "runs" / "one" / "iterations" / "000"
    table = folder / "tables" / "scored.parquet"
    was = file_digest(table)
    write_table(table, read_table(table, SCORED).slice(1), SCORED)
    write_tombstone(folder, {"tables/scored.parquet": Erased(was, file_digest(table), 1)}, ["nobody"])
    code, _, err = raft("promote", "one@1", "--rules", rules())
    assert code == 4
    assert "the ledger has no erasure" in err
    assert entries() == []


def test_a_withdrawn_model_is_not_promoted_and_not_pulled(
    raft: Raft, rules: Rules, entries: Entries, run: Run, tmp_path: Path, workspace: Path
) -> None:
    raft("promote", "one@0", "--rules", rules())
    raft("promote", "one@1", "--rules", rules())
    body = {key: entries()[1].body[key] for key in ("commit", "policy", "run", "iteration")}
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    ledger.append("withdrawn", "raft-tiny", {**body, "reason": "a source must go"}, time="2026-01-01T00:00:00+00:00")
    for command in (("promote", "one@1", "--rules", rules()), ("pull", "one@1", "--to", str(tmp_path / "out"))):
        code, _, err = raft(*command)
        assert (code, "was withdrawn by entry 3" in err, "a source must go" in err) == (3, True, True)
    assert apply(ledger, workspace / "runs", f"sqlite:///{workspace}/mlflow.db") == []
    assert aliases(workspace) == {"previous": 0}
    assert raft("rollback", "--reason", "back")[0] == 0
    assert aliases(workspace) == {"champion": 0}
    assert raft("rollback", "--to", body["commit"][:10], "--reason", "no")[0] == 3
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    for version in client.search_model_versions("name = 'raft-tiny'"):
        client.delete_model_version_tag("raft-tiny", version.version, "raft.withdrawn")


def test_mlflow_away_then_made_anew(
    raft: Raft, rules: Rules, entries: Entries, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = raft("promote", "one@0", "--rules", rules())
    assert (code, "--without-mlflow" in err, entries()) == (4, True, [])
    code, _, err = raft("promote", "one@0", "--rules", rules(), "--without-mlflow")
    assert (code, err.count("warning:")) == (0, 2)
    assert "not checked: " in err
    assert "raft sync" in err
    assert [e.kind for e in entries()] == ["promoted"]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    for _ in range(2):
        assert apply(ledger, workspace / "runs", uri) == []
        assert aliases(tmp_path) == {"champion": 0}
    (missing,) = apply(ledger, tmp_path / "no-runs", f"sqlite:///{tmp_path}/third.db")
    assert "one@0" in missing
    assert "no-runs" in missing


def test_what_serves_is_told(raft: Raft, rules: Rules, tmp_path: Path, run: Run) -> None:
    script = f"printf '%s %s %s' $RAFT_ACTION $RAFT_MODEL $RAFT_ITERATION > {tmp_path}/told"
    policy = rules(after=[f'sh -c "{script}"', "false", "no-such-command"], after_timeout_s=10)
    code, _, err = raft("promote", "one@1", "--rules", policy)
    assert code == 0
    assert (tmp_path / "told").read_text() == "promoted raft-tiny 1"
    assert "false failed" in err
    outcomes = {event["what"]: event["outcome"] for event in read_events(run, "told")[-3:]}
    assert outcomes["sh"] == "ok"
    assert outcomes["no-such-command"].startswith("exit code 127")


@pytest.mark.parametrize("where", ["tasks.tracking.aliases.apply", "flows.promotion.promote.run_hooks"])
def test_what_a_kill_kept_from_being_told_is_told_when_asked_again(
    where: str, raft: Raft, rules: Rules, entries: Entries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = rules(after=[f"sh -c 'echo $RAFT_ENTRY >> {tmp_path}/told'"])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(where, killed)
        assert raft("promote", "one@0", "--rules", policy)[0] == 130
    (entry,) = entries()
    assert not (tmp_path / "told").exists()
    assert raft("promote", "one@0", "--rules", policy, "--dry-run")[0] == 0
    assert not (tmp_path / "told").exists()
    for _ in range(2):
        code, out, _ = raft("promote", "one@0", "--rules", policy)
        assert (code, "already the champion of raft-tiny" in out) == (0, True)
        assert (tmp_path / "told").read_text() == f"{entry.digest}\n"
    assert entries() == [entry]


@pytest.mark.parametrize("candidate", ["one@base", "one@7", "nobody"])
def test_what_is_no_candidate(candidate: str, raft: Raft, entries: Entries) -> None:
    assert raft("promote", candidate)[0] == 2
    assert entries() == []
