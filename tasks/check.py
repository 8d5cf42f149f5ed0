"""The gates inside an iteration: hold its tables against their suites, and keep what they found."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.records.run import BASE
from raft_core.records.tables import (
    PROMPTS,
    QUARANTINE,
    SAMPLES,
    SCORED,
    SELECTED,
    VALIDATION,
    read_table,
    write_table,
)
from raft_core.types import Prompt
from tasks import validate
from tasks.frames import Measures, measures_of
from tasks.iteration import Iteration
from tasks.validate import Outcome

Stage = Literal["samples", "scored", "selected"]


def check(it: Iteration, stage: Stage, held_out: Sequence[Prompt]) -> None:
    """Validate one table; write ``validation`` and ``quarantine`` up to this stage.

    Raises GateStop, after writing ``validation.md``, if a check on the whole set failed.
    """
    outcome = _validate(it, stage, held_out)
    checks, quarantine = outcome.checks, outcome.quarantine
    if stage != "samples":
        checks = pa.concat_tables([_earlier(it, "validation", stage), checks])
        quarantine = pa.concat_tables([_earlier(it, "quarantine", stage), quarantine])
    write_table(it.table("validation"), checks, VALIDATION)
    write_table(it.table("quarantine"), quarantine, QUARANTINE)
    outcome.raise_if_stopped(it.folder / "validation.md")


def read_quarantine(it: Iteration) -> pa.Table:
    """The rows that were taken out so far."""
    return read_table(it.table("quarantine"), QUARANTINE)


def _validate(it: Iteration, stage: Stage, held_out: Sequence[Prompt]) -> Outcome:
    prompts = read_table(it.table("prompts"), PROMPTS)
    if stage == "samples":
        return validate.validate_samples(read_table(it.table("samples"), SAMPLES), prompts, it.config, _previous(it))
    if stage == "scored":
        scored, samples = read_table(it.table("scored"), SCORED), read_table(it.table("samples"), SAMPLES)
        return validate.validate_scored(scored, samples, it.config)
    selected = read_table(it.table("selected"), SELECTED)
    held_out_ids = {prompt.prompt_id for prompt in held_out}
    return validate.validate_selected(selected, prompts, held_out_ids, it.config, _previous(it))


def _earlier(it: Iteration, name: Literal["validation", "quarantine"], stage: Stage) -> pa.Table:
    """What the stages before this one wrote, without what this stage wrote before a kill."""
    column, schema = ("suite", VALIDATION) if name == "validation" else ("stage", QUARANTINE)
    before = {"scored": ["samples"], "selected": ["samples", "scored"]}[stage]
    table = read_table(it.table(name), schema)
    return table.filter(pc.is_in(table[column], pa.array(before)))


def _previous(it: Iteration) -> Measures | None:
    before = it.number - 1
    if before == BASE:
        return None
    samples = read_table(it.run.table(before, "samples"), SAMPLES)
    return measures_of(samples, read_table(it.run.table(before, "selected"), SELECTED), it.config)
