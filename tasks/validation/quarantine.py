"""What comes of a suite: rows for the tables of an iteration, and whether the run stops."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.errors import GateStop
from raft_core.files.artifacts import write_bytes
from raft_core.records.tables import QUARANTINE, VALIDATION, to_table
from tasks.validation.gx_results import Finding, Results
from tasks.validation.report import render

MADE_BY = {"samples": "sampling", "scored": "scoring"}
"""Suite → the step whose own failures its table holds; their check is called after the step."""


REMEDIES = {
    "signal_share": "what is selected would be chosen by lot, so nothing was trained. Try the reward on a few samples: "
    "does it return the same number for all of them, or miss references that the prompts lack? Else raise "
    "sampling.samples_per_prompt or sampling.temperature, or give prompts that the policy solves now and then"
}
"""Check → why it stops the run and what to try, where the limit alone does not say it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a suite on one table: VALIDATION and QUARANTINE rows, and the findings that stop the run.

    ``measures`` are plain numbers for the log.
    """

    suite: str
    checks: pa.Table
    quarantine: pa.Table
    stop: tuple[Finding, ...]
    measures: Mapping[str, Any] = field(default_factory=dict)
    raw: tuple[Mapping[str, Any], ...] = ()

    def raise_if_stopped(self, report: Path) -> None:
        """If a check on the set failed, write ``report`` (Markdown) and raise GateStop."""
        if not self.stop:
            return
        write_bytes(report, render(self.suite, self.checks, self.quarantine, self.stop).encode())
        keys = sorted({finding.key for finding in self.stop if finding.key})
        advice = [REMEDIES[finding.check] for finding in self.stop if finding.check in REMEDIES]
        raise GateStop(
            f"validation of the {self.suite} table stopped the run",
            got="; ".join(f"{finding.check}: {finding.observed}" for finding in self.stop),
            expected="; ".join(f"{finding.check}: {finding.expected}" for finding in self.stop),
            hint="; ".join(
                [*advice, f"read {report}, it names the rows", *([f"the limits are {', '.join(keys)}"] if keys else [])]
            ),
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


def outcome_of(suite: str, table: pa.Table, results: Results, measures: Mapping[str, Any] | None = None) -> Outcome:
    """What ``results`` mean for ``table``; no ``measures``: its columns were wrong, nothing else was checked."""
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
        for f in results.findings
    ]
    stop = tuple(f for f in results.findings if f.level == "set" and not f.passed)
    failed = [f for f in results.findings if f.level == "row" and not f.passed]
    quarantine = [QUARANTINE.empty_table(), *(_quarantine_rows(suite, table, f) for f in failed)]
    if measures is not None and suite in MADE_BY:
        quarantine.insert(1, _came_quarantined(suite, table))
    return Outcome(suite, to_table(VALIDATION, checks), pa.concat_tables(quarantine), stop, measures or {}, results.raw)


def _came_quarantined(suite: str, table: pa.Table) -> pa.Table:
    """Rows that the step before could not make: a reward that raised, a sample that failed."""
    rows = table.select(["sample_id", "prompt_id", "status", "reason"])
    rows = rows.filter(pc.not_equal(rows["status"], "ok"))
    return _quarantine_table(suite, MADE_BY[suite], rows, rows["reason"])


def _quarantine_rows(suite: str, table: pa.Table, finding: Finding) -> pa.Table:
    rows = table.select(["sample_id", "prompt_id"]).take(pa.array(finding.labels, pa.int64()))
    reasons = pa.array([f"{value}; expected {finding.expected}" for value in finding.values], pa.string())
    return _quarantine_table(suite, finding.check, rows, reasons)


def _quarantine_table(suite: str, check: str, rows: pa.Table, reasons: pa.Array | pa.ChunkedArray) -> pa.Table:
    columns = [rows["sample_id"], rows["prompt_id"], pa.repeat(suite, len(rows)), pa.repeat(check, len(rows)), reasons]
    return pa.table(columns, schema=QUARANTINE)
