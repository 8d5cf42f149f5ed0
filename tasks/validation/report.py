"""The Markdown report of a validation that stopped a run: failed checks, observed values, rows and reasons."""

from collections.abc import Iterable, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from tasks.validation.gx_results import SHOWN_ROWS, GxResult


def render(suite: str, checks: pa.Table, quarantine: pa.Table, stop: Sequence[GxResult]) -> str:
    """The report, a function of its arguments only. ``stop``: the failed checks that stopped the run."""
    lines = [
        f"# Validation of the {suite} table stopped the run",
        "",
        f"{len(stop)} of {checks.num_rows} checks failed, so the run stopped. Nothing was trained on this table.",
        "",
    ]
    for result in stop:
        lines += _section(result)
    lines += ["## All checks", "", *_table(["check", "level", "passed", "observed", "expected"], _rows(checks)), ""]
    if quarantine.num_rows:
        lines += _quarantine(quarantine)
    return "\n".join(lines)


def _section(result: GxResult) -> list[str]:
    lines = [f"## {result.check}", "", f"- observed: {_cell(result.observed)}", f"- expected: {result.expected}"]
    if result.key:
        lines.append(f"- limit: `{result.key}`")
    if result.names:
        shown = zip(result.labels, result.names, result.values, strict=False)
        lines += ["", f"The first {len(result.names)} of {result.failed_rows} failing rows:", ""]
        lines += _table(["row", "name", "reason"], shown)
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
    """One line that cannot break out of its table cell: completions are text that a model wrote."""
    text = " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
