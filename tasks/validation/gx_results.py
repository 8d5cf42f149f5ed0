"""Run a suite through Great Expectations and read what it found."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
import pyarrow as pa
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)

from raft_core.errors import StepError
from tasks.validation.expectations import Level, Suite

SHOWN_ROWS = 20
"""Rows that a report names for a check."""
MAX_VALUE_CHARS = 80
"""A value in a reason or report is cut after so many characters."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame, and who is meant by the labels of its index: ``names[label]`` is an id, a column, a character."""

    data: pd.DataFrame
    names: pa.ChunkedArray | pa.Array


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one expectation.

    ``labels`` and ``values`` are the rows that fail (all of them for a check on single rows that was run
    ``complete``, else the first few) and what was found there; ``names`` tells who the first few are.
    """

    check: str
    level: Level
    passed: bool
    observed: str
    expected: str
    key: str | None
    failed_rows: int
    labels: Sequence[int] = ()
    values: Sequence[str] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """Findings in the order of the suite, and what Great Expectations said (JSON-able, without lists of rows)."""

    findings: tuple[Finding, ...] = ()
    raw: tuple[Mapping[str, Any], ...] = ()

    def __add__(self, other: "Results") -> "Results":
        return Results(self.findings + other.findings, self.raw + other.raw)

    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(finding.passed for finding in self.findings)


def run(suite: Suite, batches: Mapping[str, Frame], *, complete: bool = False) -> Results:
    """Validate each frame of ``batches`` by its part of ``suite``; a frame that is left out is not checked.

    ``complete`` names every failing row instead of the first ``SHOWN_ROWS``.
    Raises StepError for an expectation that could not be computed: that is no bad data.
    """
    source = _context().data_sources.add_pandas("tables")
    findings: list[Finding] = []
    raw: list[Mapping[str, Any]] = []
    for name, wanted in suite.items():
        if name not in batches or not wanted:
            continue
        frame = batches[name]
        whole = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("whole")
        batch = whole.get_batch({"dataframe": frame.data})
        for result in _validate(batch, name, wanted, complete=complete):
            finding = _finding(result, frame)
            findings.append(finding)
            raw.append({"frame": name, "check": finding.check, **_raw(result)})
    return Results(tuple(findings), tuple(raw))


def _context() -> Any:
    return gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
        ),
    )


def _validate(batch: Any, name: str, wanted: Sequence[Any], *, complete: bool) -> Sequence[Any]:
    """The results in the order of ``wanted``."""
    form = {"result_format": "COMPLETE" if complete else "SUMMARY", "partial_unexpected_count": SHOWN_ROWS}
    with warnings.catch_warnings():
        # pandas warns about groups in a pattern; a user may write (a|b).
        warnings.filterwarnings("ignore", message="This pattern is interpreted as a regular expression")
        suite = gx.ExpectationSuite(name=name, expectations=list(wanted))
        results: Sequence[Any] = batch.validate(suite, result_format=form).results
    order = [expectation.meta["check"] for expectation in wanted]
    return sorted(results, key=lambda result: order.index(result.expectation_config.meta["check"]))


def _finding(result: Any, frame: Frame) -> Finding:
    settings, found = result.expectation_config, result.result
    meta = settings.meta
    if fault := _fault(result.exception_info):
        raise StepError(
            f"the check {meta['check']!r} could not be made",
            got=fault,
            expected=meta["expected"],
            hint=f"correct {meta['key']}" if meta["key"] else None,
        )
    passed = bool(result.success)
    labels = found.get("unexpected_index_list", found.get("partial_unexpected_index_list")) or []
    columns = [settings.kwargs[key] for key in ("column", "column_A", "column_B") if key in settings.kwargs]
    return Finding(
        meta["check"],
        meta["level"],
        passed,
        _observed(found),
        meta["expected"],
        meta["key"],
        failed_rows=0 if passed else int(found.get("unexpected_count", 0)),
        labels=labels,
        values=_told(frame.data.loc[labels, columns]),
        names=frame.names.take(pa.array(labels[:SHOWN_ROWS], pa.int64())).to_pylist(),
    )


def _fault(info: Mapping[str, Any]) -> str | None:
    """The message of an exception, wherever Great Expectations put it."""
    if info.get("raised_exception"):
        return str(info.get("exception_message"))
    return next((fault for part in info.values() if isinstance(part, Mapping) and (fault := _fault(part))), None)


def _observed(found: Mapping[str, Any]) -> str:
    if "element_count" not in found:
        return _value(found.get("observed_value"))
    bad, rows = found["unexpected_count"], found["element_count"] - found.get("missing_count", 0)
    return f"{bad} of {rows} rows fail" + (f" ({100 * bad / rows:.3g} %)" if bad else "")


def _told(rows: pd.DataFrame) -> list[str]:
    """What stands in each row (Great Expectations itself lists 200 values at most, and every index)."""
    columns = [[f"{name} is {_value(value)}" for value in rows[name].tolist()] for name in rows.columns]
    return [", ".join(parts) for parts in zip(*columns, strict=True)]


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


def _raw(result: Any) -> dict[str, Any]:
    numbers = {key: value for key, value in result.result.items() if isinstance(value, bool | int | float)}
    return {"type": result.expectation_config.type, "success": bool(result.success), **numbers}
