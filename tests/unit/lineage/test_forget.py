"""What is asked for goes, no more and no less, and no live run draws it afterwards."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.lineage import forget
from flows.lineage.forget import Forgotten, Plan, carry_out, plan
from raft_core.errors import RunBusyError
from raft_core.records import trace
from raft_core.records.exclusions import read_exclusions
from raft_core.records.index import FOLDER, open_index
from raft_core.records.ledger import FileLedger
from raft_core.records.run import Run, hold
from raft_core.records.trace import By
from raft_core.records.verification import unordered_erasures, verify_run
from raft_core.types import Prompt

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
    with hold(other), pytest.raises(RunBusyError, match="is being worked on"):
        forgotten(run, chosen)
    assert not read_exclusions(workspace_of(run)).prompts
    assert num_rows(run, 0, "prompts") == [3]
    assert forgotten(run, chosen).excluded
    assert num_rows(run, 0, "prompts") == [2]


def test_a_question_meanwhile_leaves_no_text_in_the_index(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    erase_run = forget.erase_run

    def asked(*arguments: object) -> None:
        with open_index(run.path.parent):
            pass
        erase_run(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(forget, "erase_run", asked)
    forgotten(run, planned(run, "prompt", Prompt.of("two").prompt_id))
    assert not (run.path.parent / FOLDER / "lineage.duckdb").exists()
