"""The metrics as a whole: every figure and gate is named once, and no other module names one."""

import re
from pathlib import Path

import pytest

from raft_core.config.gates import GatesConfig
from raft_core.metrics.registry import figures, gates, own, table_columns

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
