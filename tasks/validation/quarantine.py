"""What a suite's results lead to: rows of the iteration's tables, quarantined rows, and whether the run stops."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.errors import GateStop
from raft_core.files.artifacts import write_bytes
from raft_core.records.tables import QUARANTINE, VALIDATION, to_table
from tasks.validation.gx_results import GxResult, GxResults
from tasks.validation.report import render

MADE_BY = {"samples": "sampling", "scored": "scoring"}
"""Suite → the step that may have failed on single rows of its table; the quarantine lists those under this name."""


REMEDIES = {
    "signal_share": "score a few samples by hand: the rewards do not tell the samples of a prompt apart, so selection "
    "would be random, and nothing was trained. Does the reward always return the same number, or need references that "
    "the prompts lack? Otherwise raise sampling.samples_per_prompt or sampling.temperature, or add prompts that the "
    "policy sometimes solves"
}
"""Check → what to try, where the limit alone does not say it."""


@dataclass(frozen=True, slots=True)
class TableCheck:
    """The results of a suite on one table: VALIDATION and QUARANTINE rows, and the failed checks that stop the run.

    ``measures`` are plain numbers for the log.
    """

    suite: str
    checks: pa.Table
    quarantine: pa.Table
    stop: tuple[GxResult, ...]
    measures: Mapping[str, Any] = field(default_factory=dict)
    raw: tuple[Mapping[str, Any], ...] = ()

    def raise_if_stopped(self, report: Path) -> None:
        """If a check on the set failed, write ``report`` (Markdown) and raise GateStop."""
        if not self.stop:
            return
        write_bytes(report, render(self.suite, self.checks, self.quarantine, self.stop).encode())
        keys = sorted({result.key for result in self.stop if result.key})
        limits = [f"the limits are set by {', '.join(keys)}"] if keys else []
        advice = [REMEDIES[result.check] for result in self.stop if result.check in REMEDIES]
        raise GateStop(
            f"validation of the {self.suite} table stopped the run",
            got="; ".join(f"{result.check}: {result.observed}" for result in self.stop),
            expected="; ".join(f"{result.check}: {result.expected}" for result in self.stop),
            hint="; ".join([*advice, f"read {report}: it lists the failing rows", *limits]),
        )


def apply_quarantine(table: pa.Table, quarantine: pa.Table) -> pa.Table:
    """``table`` (SAMPLES or SCORED) with status, reason and a null reward for the rows in ``quarantine``."""
    reasons: dict[str, list[str]] = {}
    columns = quarantine.select(["sample_id", "reason"]).to_pydict()
    for sample_id, reason in zip(columns["sample_id"], columns["reason"], strict=True):
        reasons.setdefault(sample_id, []).append(reason)
    if not reasons:
        return table
    position = pc.index_in(table["sample_id"], pa.array(list(reasons), pa.string())).combine_chunks()
    bad = position.is_valid()
    why = pa.array(["; ".join(texts) for texts in reasons.values()], pa.string()).take(position)
    changed = {"status": pc.if_else(bad, "quarantined", table["status"]), "reason": pc.coalesce(why, table["reason"])}
    if "reward" in table.schema.names:
        changed["reward"] = pc.if_else(bad, pa.scalar(None, pa.float64()), table["reward"])
    for name, column in changed.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), column)
    return table


def table_check(suite: str, table: pa.Table, found: GxResults, measures: Mapping[str, Any] | None = None) -> TableCheck:
    """What the results ``found`` mean for ``table``; ``measures`` None: its columns were wrong."""
    checks = [
        {
            "suite": suite,
            "check": f.check,
            "level": f.level,
            "passed": f.passed,
            "observed": f.observed,
            "expected": f.expected,
            "failed_rows": f.failed_rows,
        }
        for f in found.results
    ]
    stop = tuple(f for f in found.results if f.level == "set" and not f.passed)
    failed = [f for f in found.results if f.level == "row" and not f.passed]
    quarantine = [QUARANTINE.empty_table(), *(_quarantine_rows(suite, table, f) for f in failed)]
    if measures is not None and suite in MADE_BY:
        quarantine.insert(1, _came_quarantined(suite, table))
    return TableCheck(
        suite, to_table(VALIDATION, checks), pa.concat_tables(quarantine), stop, measures or {}, found.raw
    )


def _came_quarantined(suite: str, table: pa.Table) -> pa.Table:
    """Rows on which the step itself failed: a reward that raised, a sample that could not be drawn."""
    rows = table.select(["sample_id", "prompt_id", "status", "reason"])
    rows = rows.filter(pc.not_equal(rows["status"], "ok"))
    return _quarantine_table(suite, MADE_BY[suite], rows, rows["reason"])


def _quarantine_rows(suite: str, table: pa.Table, result: GxResult) -> pa.Table:
    rows = table.select(["sample_id", "prompt_id"]).take(pa.array(result.labels, pa.int64()))
    reasons = pa.array([f"{value}; expected {result.expected}" for value in result.values], pa.string())
    return _quarantine_table(suite, result.check, rows, reasons)


def _quarantine_table(suite: str, check: str, rows: pa.Table, reasons: pa.Array | pa.ChunkedArray) -> pa.Table:
    columns = [rows["sample_id"], rows["prompt_id"], pa.repeat(suite, len(rows)), pa.repeat(check, len(rows)), reasons]
    return pa.table(columns, schema=QUARANTINE)
