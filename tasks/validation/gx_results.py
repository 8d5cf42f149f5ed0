"""Run a suite through Great Expectations and read its results."""

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
"""A report lists at most this many failing rows of a check."""
MAX_VALUE_CHARS = 80
"""Longer values are cut to this length in reasons and reports."""


@dataclass(frozen=True, slots=True)
class GxFrame:
    """A frame, and what the labels of its index stand for: ``names[label]`` is an id, a column or a character."""

    data: pd.DataFrame
    names: pa.ChunkedArray | pa.Array


@dataclass(frozen=True, slots=True)
class GxResult:
    """The result of one expectation.

    ``labels`` and ``values`` are the rows that fail and the values found in them: all of them for a check on single
    rows that was run ``complete``, otherwise the first ``SHOWN_ROWS``. ``names`` identifies those first rows.
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
class GxResults:
    """One result per check, in the order of the suite. ``raw``: Great Expectations' own output, without row lists."""

    results: tuple[GxResult, ...] = ()
    raw: tuple[Mapping[str, Any], ...] = ()

    def __add__(self, other: "GxResults") -> "GxResults":
        return GxResults(self.results + other.results, self.raw + other.raw)

    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(result.passed for result in self.results)


def run(suite: Suite, batches: Mapping[str, GxFrame], *, complete: bool = False) -> GxResults:
    """Validate each frame of ``batches`` with its part of ``suite``; a frame that is missing is not checked.

    ``complete`` lists every failing row instead of the first ``SHOWN_ROWS``.
    Raises StepError if an expectation could not be computed: that does not mean that the data is bad.
    """
    source = _context().data_sources.add_pandas("tables")
    found: list[GxResult] = []
    raw: list[Mapping[str, Any]] = []
    for name, wanted in suite.items():
        if name not in batches or not wanted:
            continue
        frame = batches[name]
        whole = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("whole")
        batch = whole.get_batch({"dataframe": frame.data})
        for result in _validate(batch, name, wanted, complete=complete):
            read = _result(result, frame)
            found.append(read)
            raw.append({"frame": name, "check": read.check, **_raw(result)})
    return GxResults(tuple(found), tuple(raw))


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


def _result(result: Any, frame: GxFrame) -> GxResult:
    settings, found = result.expectation_config, result.result
    meta = settings.meta
    if fault := _fault(result.exception_info):
        raise StepError(
            f"Great Expectations could not compute the check {meta['check']!r}",
            got=fault,
            expected=meta["expected"],
            hint=f"correct {meta['key']}" if meta["key"] else None,
        )
    passed = bool(result.success)
    labels = found.get("unexpected_index_list", found.get("partial_unexpected_index_list")) or []
    columns = [settings.kwargs[key] for key in ("column", "column_A", "column_B") if key in settings.kwargs]
    return GxResult(
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
    """The values of each row (Great Expectations itself lists at most 200 values, but every index)."""
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
