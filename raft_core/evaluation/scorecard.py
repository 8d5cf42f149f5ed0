"""The scorecard: one flat report per iteration, deterministic, the same names in report.json and MLflow.

What is in it and what each name means: the metrics in ``raft_core.metrics``, one file each. A value that does not exist
is None, never NaN.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from raft_core.errors import RaftError, StepError
from raft_core.metrics.base import Measured, Metric
from raft_core.metrics.registry import own


def scorecard(measured: Measured) -> dict[str, Any]:
    """The whole report: the figures of every metric, then the mappings and lists that come with them.

    The base policy (iteration −1) has no batch, and then none of the figures that need one. Raises StepError where a
    metric of another package fails, or returns what it does not declare.
    """
    report: dict[str, Any] = {"iteration": measured.iteration}
    nested: dict[str, Any] = {}
    for metric in (*own(), *measured.config.evaluation.metrics):
        if metric.needs_batch and measured.batch is None:
            continue
        for name, value in _computed(metric, measured).items():
            place = nested if isinstance(value, Mapping | list) else report
            if name in report or name in nested:
                raise _fault(metric, f"{name}, which another metric reports already")
            place[name] = value
    return {**report, **nested}


def _computed(metric: Metric, measured: Measured) -> Mapping[str, Any]:
    try:
        values = dict(metric.compute(measured))
        flat = {name for name, value in values.items() if not isinstance(value, Mapping | list)}
        plain = {name: _number(name, value) if name in flat else value for name, value in values.items()}
        json.dumps({name: value for name, value in plain.items() if name not in flat}, allow_nan=False)
    except RaftError:
        raise
    except Exception as error:
        raise _fault(metric, f"{type(error).__name__}: {error}") from error
    declared = {f"{figure.name}{end}" for figure in metric.figures for end in figure.ends}
    if flat != declared:
        raise _fault(metric, f"{', '.join(sorted(flat)) or 'no figure'}; it declares {', '.join(sorted(declared))}")
    return plain


def _number(name: str, value: object) -> float | int | None:
    if value is None:
        return None
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise TypeError(f"{value!r} for {name}")
    return plain if math.isfinite(plain) else None


def _fault(metric: Metric, got: str) -> StepError:
    return StepError(
        f"metric {metric.type} failed",
        got=got,
        expected="a number or None for each figure that it declares",
        hint=f"correct {type(metric).__module__}.{type(metric).__name__}",
    )
