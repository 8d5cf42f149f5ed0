"""The step of an iteration: which tables it leaves, what a repeated or a stopped stage does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raft_core.config.run import RaftConfig
from raft_core.errors import GateStop
from raft_core.records import tables
from raft_core.records.run import open_run, read_events
from raft_core.types import Policy, Prompt
from tasks.loop.iteration import Iteration
from tasks.validation.check import STAGES, check, read_quarantine

Rows = list[dict[str, Any]]
HELD_OUT = [Prompt.of("Another review:")]


@pytest.fixture
def put(make_table: Callable[..., pa.Table]) -> Callable[[Iteration, str, Rows], None]:
    """Write one of the iteration's tables."""

    def write(it: Iteration, name: str, rows: Rows) -> None:
        tables.write_table(it.table(name), make_table(name, rows), tables.SCHEMAS[name])

    return write


@pytest.fixture
def it(workspace: Path, make_config: Callable[..., RaftConfig], prompts_table: pa.Table) -> Iteration:
    run = open_run(workspace / "runs", "validated", make_config(validation={"max_surge": 0.1}))
    policy = Policy(Path("nowhere"), "0" * 64)
    iteration = Iteration(run, 0, policy, policy)
    tables.write_table(iteration.table("prompts"), prompts_table, tables.PROMPTS)
    return iteration


@pytest.fixture
def full(it: Iteration, put: Callable[..., None], samples: Rows, scored: Rows, selected: Rows) -> Iteration:
    """All tables, with one bad sample and one sample that has no score."""
    samples[0]["completion"] = ""
    scored[0] |= {"status": "quarantined", "reason": "empty", "reward": None}
    scored[1] |= {"status": "quarantined", "reason": "lexicon raised", "reward": None}
    for name, rows in (("samples", samples), ("scored", scored), ("selected", selected)):
        put(it, name, rows)
    return it


def test_the_tables_grow_with_the_stages(full: Iteration, samples: Rows) -> None:
    for stage in STAGES:
        check(full, stage, HELD_OUT)
    checks = tables.read_table(full.table("validation"), tables.VALIDATION)
    assert list(dict.fromkeys(checks["suite"].to_pylist())) == list(STAGES)
    found = read_quarantine(full).select(["sample_id", "stage", "check"]).to_pylist()
    assert found == [
        {"sample_id": samples[0]["sample_id"], "stage": "samples", "check": "completion_chars"},
        {"sample_id": samples[1]["sample_id"], "stage": "scored", "check": "scoring"},
    ]
    events = read_events(full.run, "validation")
    assert [event["suite"] for event in events] == list(STAGES)
    assert {result["check"] for result in events[0]["results"]} >= {"columns", "num_tokens", "samples_per_prompt"}


def test_a_repeated_stage_leaves_the_same_bytes(full: Iteration) -> None:
    seen = []
    for stage in (*STAGES, *STAGES):
        check(full, stage, HELD_OUT)
        seen.append([full.table(name).read_bytes() for name in ("validation", "quarantine")])
    assert seen[:3] == seen[3:]


def test_a_stopped_stage_keeps_its_tables_and_leaves_a_report(
    full: Iteration, put: Callable[..., None], selected: Rows
) -> None:
    check(full, "samples", HELD_OUT)
    check(full, "scored", HELD_OUT)
    put(full, "selected", [{**row, "rank": -1} for row in selected])
    with pytest.raises(GateStop, match="rank_range"):
        check(full, "selected", HELD_OUT)
    report = full.folder / "validation_selected.md"
    assert selected[0]["sample_id"] in report.read_text()
    checks = tables.read_table(full.table("validation"), tables.VALIDATION).to_pylist()
    assert [row["check"] for row in checks if not row["passed"] and row["suite"] == "selected"] == ["rank_range"]
    put(full, "selected", selected)
    check(full, "selected", HELD_OUT)
    assert not report.exists()


def test_held_out_prompts_are_refused(full: Iteration, prompts_table: pa.Table) -> None:
    trained_on = tables.to_prompts(prompts_table)[0]
    check(full, "samples", HELD_OUT)
    check(full, "scored", HELD_OUT)
    with pytest.raises(GateStop, match="held_out_overlap"):
        check(full, "selected", [*HELD_OUT, trained_on])


def test_the_iteration_before_is_the_measure(full: Iteration, put: Callable[..., None], samples: Rows) -> None:
    after = Iteration(full.run, 1, full.policy, full.base)
    put(after, "prompts", tables.read_table(full.table("prompts"), tables.PROMPTS).to_pylist())
    put(after, "samples", [{**row, "completion": "good" + "#" * 9} for row in samples])
    with pytest.raises(GateStop, match="character_surge"):
        check(after, "samples", HELD_OUT)
