"""The report of a validation that stopped a run, as Markdown: which checks, what was seen, which rows and why."""

from collections.abc import Iterable, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from tasks.validation.gx_results import SHOWN_ROWS, Finding


def render(suite: str, checks: pa.Table, quarantine: pa.Table, stop: Sequence[Finding]) -> str:
    """The report; depends on its arguments alone. ``stop`` are the findings that stopped the run."""
    lines = [
        f"# Validation of the {suite} table stopped the run",
        "",
        f"{len(stop)} of {checks.num_rows} checks stopped it; nothing was trained on this table.",
        "",
    ]
    for finding in stop:
        lines += _section(finding)
    lines += ["## All checks", "", *_table(["check", "level", "passed", "observed", "expected"], _rows(checks)), ""]
    if quarantine.num_rows:
        lines += _quarantine(quarantine)
    return "\n".join(lines)


def _section(finding: Finding) -> list[str]:
    lines = [f"## {finding.check}", "", f"- observed: {_cell(finding.observed)}", f"- expected: {finding.expected}"]
    if finding.key:
        lines.append(f"- limit: `{finding.key}`")
    if finding.names:
        shown = zip(finding.labels, finding.names, finding.values, strict=False)
        lines += ["", f"The first {len(finding.names)} of {finding.failed_rows} rows that fail:", ""]
        lines += _table(["row", "who", "why"], shown)
    return [*lines, ""]


def _quarantine(quarantine: pa.Table) -> list[str]:
    counts = sorted(pc.value_counts(quarantine["check"]).to_pylist(), key=lambda count: count["values"])
    first = quarantine.slice(0, SHOWN_ROWS).select(["sample_id", "prompt_id", "check", "reason"])
    return [
        "## Quarantined rows",
        "",
        *_table(["check", "rows"], ((count["values"], count["counts"]) for count in counts)),
        "",
        f"The first {first.num_rows} of {quarantine.num_rows}:",
        "",
        *_table(first.schema.names, (row.values() for row in first.to_pylist())),
        "",
    ]


def _rows(checks: pa.Table) -> Iterable[Iterable[object]]:
    for row in checks.to_pylist():
        yield row["check"], row["level"], "yes" if row["passed"] else "**no**", row["observed"], row["expected"]


def _table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in islice(row, len(header)))} |" for row in rows]
    return lines


def _cell(value: object) -> str:
    """One line that cannot leave its table cell: completions are text of a model."""
    text = " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
