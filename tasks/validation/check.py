"""The checks inside an iteration: validate its tables with Great Expectations and store the results."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.records.run import record_event
from raft_core.records.tables import PROMPTS, QUARANTINE, SAMPLES, SCORED, SELECTED, VALIDATION, read_table, write_table
from raft_core.types import Prompt
from tasks.loop.iteration import Iteration
from tasks.validation import validate
from tasks.validation.gx_frames import Measures, measures_of
from tasks.validation.quarantine import TableCheck

Stage = Literal["samples", "scored", "selected"]
STAGES: tuple[Stage, ...] = ("samples", "scored", "selected")
BULK = ["completion", "completion_token_ids", "finish_reason"]
"""Columns that ``measures_of`` needs."""


def check(it: Iteration, stage: Stage, held_out: Sequence[Prompt]) -> TableCheck:
    """Validate one table; write ``validation`` and ``quarantine`` up to this stage. Returns the results.

    Checking a stage twice writes the same bytes. Great Expectations' own output goes to the event log.
    Raises GateStop, after writing ``validation_STAGE.md``, if a check on the whole set failed.
    """
    checked = _validate(it, stage, held_out)
    before = STAGES[: STAGES.index(stage)]
    known, caught = _rows(it, "quarantine", before), checked.quarantine
    caught = caught.filter(pc.invert(pc.is_in(caught["sample_id"], known["sample_id"].combine_chunks())))
    write_table(it.table("quarantine"), pa.concat_tables([known, caught]), QUARANTINE)
    write_table(it.table("validation"), pa.concat_tables([_rows(it, "validation", before), checked.checks]), VALIDATION)
    record_event(it.run, "validation", iteration=it.number, suite=stage, measures=checked.measures, results=checked.raw)
    report = it.folder / f"validation_{stage}.md"
    checked.raise_if_stopped(report)
    report.unlink(missing_ok=True)
    return checked


def read_quarantine(it: Iteration) -> pa.Table:
    """The rows quarantined so far."""
    return read_table(it.table("quarantine"), QUARANTINE)


def _validate(it: Iteration, stage: Stage, held_out: Sequence[Prompt]) -> TableCheck:
    if stage == "scored":
        samples = read_table(it.table("samples"), SAMPLES, ["sample_id", "prompt_id"])
        return validate.validate_scored(read_table(it.table("scored"), SCORED), samples, it.config)
    prompts = read_table(it.table("prompts"), PROMPTS)
    if stage == "samples":
        return validate.validate_samples(read_table(it.table("samples"), SAMPLES), prompts, it.config, _previous(it))
    selected = read_table(it.table("selected"), SELECTED)
    held_out_ids = {prompt.prompt_id for prompt in held_out}
    return validate.validate_selected(selected, prompts, held_out_ids, it.config, _previous(it))


def _rows(it: Iteration, name: Literal["validation", "quarantine"], stages: Sequence[Stage]) -> pa.Table:
    """The rows that ``stages`` wrote; a killed process may have left rows of later stages in the table."""
    column, schema = ("suite", VALIDATION) if name == "validation" else ("stage", QUARANTINE)
    if not stages:
        return schema.empty_table()
    table = read_table(it.table(name), schema)
    return table.filter(pc.is_in(table[column], pa.array(stages, pa.string())))


def _previous(it: Iteration) -> Measures | None:
    before = it.number - 1
    if before < 0:
        return None
    samples = read_table(it.run.table(before, "samples"), SAMPLES, BULK)
    return measures_of(samples, read_table(it.run.table(before, "selected"), SELECTED, BULK), it.config)
