"""What is asked for goes, no more and no less, and no live run draws it afterwards."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.forgetting import forget
from flows.forgetting.forget import Forgotten, Plan, carry_out, plan
from raft_core.audit import trace
from raft_core.audit.index import FOLDER, open_index
from raft_core.audit.trace import By
from raft_core.audit.verification import unordered_erasures, verify_run
from raft_core.errors import RunBusyError
from raft_core.files.artifacts import digest_of, write_json
from raft_core.forgetting.exclusions import read_exclusions
from raft_core.promotion.ledger import FileLedger, withdrawal
from raft_core.records.run import Run, hold
from raft_core.records.tables import EVALUATION, to_table
from raft_core.types import Prompt
from tasks.tracking.connection import connected
from tasks.tracking.runs import track

pytestmark = pytest.mark.slow

OFF = {"enabled": False}


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    return make_run(versioning=OFF)


def workspace_of(run: Run) -> Path:
    return run.path.parents[1]


def planned(run: Run, by: By, value: str) -> Plan:
    return plan(workspace_of(run), by, value, f"sqlite:///{workspace_of(run)}/mlflow.db")


def forgotten(run: Run, chosen: Plan) -> Forgotten:
    workspace = workspace_of(run)
    ledger = FileLedger(workspace / "ledger.jsonl")
    return carry_out(chosen, workspace, f"sqlite:///{workspace}/mlflow.db", ledger, by="ann", erase=True)


def num_rows(run: Run, iteration: int, *names: str) -> list[int]:
    return [pq.read_metadata(run.table(iteration, name)).num_rows for name in names]


def test_a_text_in_a_completion_takes_the_sample_not_its_prompt(run: Run) -> None:
    chosen = planned(run, "text", "three says 1 in 1")
    assert (dict(chosen.prompts), chosen.target.prompts) == ({}, frozenset())
    assert [(m.run, m.iteration) for m in chosen.models] == [("first", 1)]
    forgotten(run, chosen)
    assert num_rows(run, 1, "prompts", "samples", "scored", "selected") == [3, 5, 5, 2]
    assert num_rows(run, 0, "prompts", "samples") == [3, 6]
    assert verify_run(run, rehash=True).ok
    assert unordered_erasures(run, FileLedger(workspace_of(run) / "ledger.jsonl").entries()) == []


def test_a_source_of_samples_takes_no_prompt(run: Run) -> None:
    chosen = planned(run, "source", "policy")
    assert (dict(chosen.prompts), chosen.target.prompts) == ({}, frozenset())


def test_every_prompt_of_a_source_goes_however_many(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_LISTED", 1)
    assert set(planned(run, "source", "films").prompts.values()) == {"two", "three"}
    assert set(planned(run, "text", "o").prompts.values()) == {"one", "two", "held out"}


def test_a_live_run_that_has_not_drawn_it_yet(make_run: Callable[..., Run], run: Run) -> None:
    """It read the exclusions when it started."""
    other = make_run("other", key="other", texts=[["other"], ["other"]], versioning=OFF)
    chosen = planned(run, "prompt", Prompt.of("two").prompt_id)
    assert chosen.runs == (run,)
    with hold(other), pytest.raises(RunBusyError, match="in use"):
        forgotten(run, chosen)
    assert not read_exclusions(workspace_of(run)).prompts
    assert num_rows(run, 0, "prompts") == [3]
    assert forgotten(run, chosen).excluded
    assert num_rows(run, 0, "prompts") == [2]


def test_the_evidence_of_promotions_that_holds_it(run: Run) -> None:
    two = Prompt.of("two").prompt_id
    store = workspace_of(run) / "promotions"
    for key, text in (("a" * 64, "two"), ("b" * 64, "three"), ("c" * 64, "two")):
        row = {"prompt_id": Prompt.of(text).prompt_id, "prompt": text, "components": []}
        table = to_table(EVALUATION.remove_metadata(), [row]).select(["prompt_id", "prompt"])
        (store / key).mkdir(parents=True)
        pq.write_table(table, store / key / "evaluation.parquet")
        write_json(store / f"{key}.json", {"time": "2026-01-01T00:00:00+00:00"})
        write_json(store / ".steps" / f"{key}.json", {})
    shutil.copytree(store / ("a" * 64), store / f".{'a' * 64}.work")
    old = store / f"{'a' * 64}.{'d' * 12}"
    shutil.copytree(store / ("a" * 64), old)
    (old / "evidence.json").write_text("measured earlier")
    ledger = FileLedger(workspace_of(run) / "ledger.jsonl")
    named, earlier = digest_of(store / ("a" * 64)), digest_of(old)
    about = {"run": "first", "iteration": 1, "commit": "x", "policy": "y"}
    body = {**about, "against": {**about, "iteration": -1}, "evidence": {"candidate": named, "reference": earlier}}
    ledger.append("promoted", "raft-traced", body, time="2026-01-01T00:00:00+00:00")

    for _ in range(2):
        done = forgotten(run, planned(run, "prompt", two))
    assert done.erased is not None
    assert {p.name for p in store.rglob("*") if p.suffix != ".lock"} == {
        "b" * 64,
        "evaluation.parquet",
        f"{'b' * 64}.json",
        ".steps",
    }
    kept = [e.body for e in ledger.entries() if e.body.get("evidence") == named]
    assert [(e["run"], e["iteration"]) for e in kept] == [("first", 1)]
    assert [e.body["iteration"] for e in ledger.entries() if e.body.get("evidence") == earlier] == [-1]
    assert withdrawal(ledger.entries(), "x", "y") is None


def test_the_reports_in_mlflow_quote_it_no_more(run: Run) -> None:
    uri = f"sqlite:///{workspace_of(run)}/mlflow.db"
    (run.folder(0) / "validation_scored.md").write_text("unexpected: two says 1 in 0")
    run_id = track(run, uri)
    assert run_id is not None
    forgotten(run, planned(run, "prompt", Prompt.of("two").prompt_id))
    with connected(uri) as client:
        path = client.download_artifacts(run_id, "iterations/000/validation_scored.md")
    assert Path(path).read_text() == "rows of this iteration were erased\n"


def test_a_question_meanwhile_leaves_no_text_in_the_index(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    erase_run = forget.erase_run

    def asked(*arguments: object) -> None:
        with open_index(run.path.parent):
            pass
        erase_run(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(forget, "erase_run", asked)
    forgotten(run, planned(run, "prompt", Prompt.of("two").prompt_id))
    assert not (run.path.parent / FOLDER / "lineage.duckdb").exists()
