"""The metrics as a whole: every figure and gate is named once, and no other module names one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from raft_core.config.evaluation import EvaluationConfig
from raft_core.config.gates import GatesConfig
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.metrics.base import Figure, Gate, Measured, Metric
from raft_core.metrics.registry import METRICS, figures, gates, own, table_columns

ROOT = Path(__file__).parents[3]
KNOWN = [figure.name for figure in figures()]
NOT_LIMITS = {"convergence_window", "limits"}


def test_every_figure_has_one_metric_and_a_title() -> None:
    assert len(set(KNOWN)) == len(KNOWN)
    assert all(figure.title for figure in figures())
    assert all(figure.meaning for figure in figures() if figure.headline)


def test_every_key_of_the_gates_is_the_gate_of_one_figure() -> None:
    keys = [gate.key for gate in gates()]
    assert sorted(keys) == sorted(GatesConfig.model_fields.keys() - NOT_LIMITS)
    assert {gate.figure for gate in gates()} <= set(KNOWN)
    assert all(gate.remedy for gate in gates())


def test_the_table_has_the_figures_that_have_a_rank() -> None:
    assert list(table_columns(figures()))[:4] == ["reward", "reward_low", "reward_high", "gold_reward"]
    ranks = [figure.rank for figure in figures() if figure.rank is not None]
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize("metric", own(), ids=lambda metric: metric.type)
def test_what_shows_and_decides_names_no_metric(metric: object) -> None:
    """A figure's name stands in its metric's file; what shows figures takes them from the registry."""
    named = [f.name for f in metric.figures if "_" in f.name and "reward" not in f.name and "num_" not in f.name]  # type: ignore[attr-defined]
    rooms = ("flows/cli/views", "flows/exports", "flows/orchestration", "flows/loop", "tasks/tracking")
    found = [
        f"{path.name}: {name}"
        for room in rooms
        for path in (ROOT / room).glob("*.py")
        for name in named
        if re.search(rf"[\"']{name}[\"']", path.read_text(encoding="utf-8"))
    ]
    assert found == []


def configured(plain: object) -> EvaluationConfig:
    return EvaluationConfig.model_validate({"metrics": (plain,)})


@pytest.mark.parametrize(
    "plain", [{"type": {"a": 1}}, {"type": ["a"]}, {}, {"type": "reward"}, {"type": "none"}, "x", 3]
)
def test_what_is_no_metric_of_a_package_is_refused(plain: object) -> None:
    with pytest.raises(ValidationError):
        configured(plain)


class Mine(Metric):
    """A metric of another package."""

    type: Literal["mine"] = "mine"

    def compute(self, measured: Measured) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"figures": (Figure("p@5", "precision"),)}, "p@5"),
        ({"figures": (Figure("seconds", "time"),)}, "seconds"),
        ({"figures": (Figure("iteration", "time"),)}, "iteration"),
        ({"gates": (Gate("max_mine", "mine", "at_most", "less"),)}, "gates.limits"),
        ({"compare": lambda self, pairs, gates: ()}, "gates.limits"),
    ],
)
def test_what_a_metric_of_a_package_may_not_declare(attributes: dict[str, object], why: str) -> None:
    assert METRICS.check is not None
    METRICS.check(Mine)
    with pytest.raises(TypeError, match=why):
        METRICS.check(type("Other", (Mine,), {"__module__": __name__, **attributes}))


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ({"figure": "gold_rewards", "min": 0.0}, "gold_reward"),
        ({"figure": "headroom", "min": 0.5, "relative": True}, "relative"),
    ],
)
def test_a_limit_that_could_never_be_broken_is_refused(
    checked_config: Callable[..., RaftConfig], limit: dict[str, object], why: str
) -> None:
    assert checked_config(gates={"limits": ({"figure": "reward_low", "min": -1.0},)}).gates.limits
    with pytest.raises((ConfigError, ValidationError), match=why):
        checked_config(gates={"limits": (limit,)})
