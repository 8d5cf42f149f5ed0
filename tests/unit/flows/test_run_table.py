"""What ``raft show`` prints of a run's figures."""

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from flows.cli.views.table import print_run, show_runs
from raft_core.records.overview import RunView


def shown(num_prompts: int) -> str:
    row = {"iteration": -1, "num_prompts": num_prompts, "reward": 0.5, "reward_low": 0.4, "reward_high": 0.6}
    view = RunView(
        name="one", status="completed", best=-1, reason="over", planned=1, rows=[row], warnings=[], decisions=[]
    )
    console = Console(file=io.StringIO(), width=160)
    print_run(console, view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_intervals_of_few_prompts_are_called_rough() -> None:
    assert "32 held-out prompts" in shown(32)
    assert "rough" not in shown(64)


NUMBER = re.compile(r"[-\d][\d,.:e]*%?")
README = ("reward", "gold", "ppl", "KL", "dist-2", "dist-1", "room", "cut")
"""The columns of the README's table, by their short titles."""


def rows(scale: float) -> list[Mapping[str, Any]]:
    """Five iterations as a real run has them; rewards, gold and headroom are ``scale`` times as large."""
    return [
        {
            "iteration": i,
            "num_prompts": 256,
            "reward": scale * 0.123 * i,
            "reward_low": scale * (0.123 * i - 0.17),
            "reward_high": scale * (0.123 * i + 0.18),
            "gold_reward": scale * 0.31,
            "perplexity": 95.234 * max(1, scale),
            "distinct_1": 0.411,
            "distinct_2": 0.845,
            "kl": 0.4 * (i + 1),
            "headroom": 1.45 * abs(scale),
            "truncation": 0.18,
            "acceptance": 0.125,
            "seconds": 83.2,
        }
        for i in range(-1, 4)
    ]


def a_run(scale: float) -> RunView:
    return RunView(
        name="reviews-0f3c21aa",
        status="completed",
        best=3,
        reason="all 4 iterations are done",
        planned=4,
        rows=rows(scale),
        warnings=[],
        decisions=[],
    )


def printed(scale: float, width: int, *, wide: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_run(console, a_run(scale), wide=wide)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("scale", [0.001, 1, 10, -100, 1000, 1e7])
def test_at_80_columns_every_column_fits_with_whole_numbers(scale: float) -> None:
    lines = printed(scale, 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["iter", *README, "kept", "time"]
    for line, row in zip(lines[1:6], rows(scale), strict=True):
        assert "…" not in line
        found = [float(text.strip("%:").replace(",", "").replace(":", ".")) for text in NUMBER.findall(line)]
        assert any(value == pytest.approx(row["gold_reward"], rel=0.01, abs=0.006) for value in found)
        assert any(value == pytest.approx(row["perplexity"], rel=0.01) for value in found)
        assert line.split()[-2:] == ["12%", "1:23"]
    assert "ppl = perplexity" in lines[6]


@pytest.mark.parametrize("width", [30, 40, 50, 60, 70, 79, 80, 100, 120])
@pytest.mark.parametrize("scale", [1, -1000, 1e7])
def test_no_number_breaks_and_what_is_left_out_is_named(width: int, scale: float) -> None:
    lines = printed(scale, width)
    titles = lines[0].split()
    assert max(map(len, lines)) <= width
    assert "reward" in titles
    table = lines[1:6]
    assert [line.split()[0] for line in table] == ["base", "0", "1", "2", "3"]
    assert not any("…" in line for line in table)
    told = " ".join(" ".join(lines).split())
    short = {
        "perplexity": "ppl",
        "distinct-1": "dist-1",
        "distinct-2": "dist-2",
        "headroom": "room",
        "truncated": "cut",
    }
    for title in ("gold", "perplexity", "distinct-1", "distinct-2", "KL", "headroom", "truncated", "accepted", "time"):
        shown = {title, short.get(title, title), "kept" if title == "accepted" else title} & set(titles)
        left_out = re.search(rf"left out here: [^(]*{title}[^(]*\(raft show --wide, or --json, has them\)", told)
        assert bool(shown) != bool(left_out), title


def test_wide_shows_everything_on_any_terminal() -> None:
    lines = printed(1, 40, wide=True)
    assert lines[0].split() == [
        "iteration",
        "reward",
        "gold",
        "perplexity",
        "KL",
        "distinct-2",
        "distinct-1",
        "headroom",
        "truncated",
        "accepted",
        "time",
    ]
    assert "0.37 [0.20, 0.55]" in lines[5]


def test_many_iterations_leave_the_trends_in_one_line() -> None:
    view = a_run(1)
    many = RunView(
        name="long",
        status="completed",
        best=0,
        reason="over",
        planned=300,
        warnings=[],
        decisions=[],
        rows=[{**view.rows[1], "iteration": i, "reward": i / 300} for i in range(-1, 300)],
    )
    console = Console(file=io.StringIO(), width=80)
    print_run(console, many)
    assert isinstance(console.file, io.StringIO)
    (trend,) = [
        line for line in console.file.getvalue().splitlines() if line.strip().startswith("reward ") and "→" in line
    ]
    assert trend.rstrip().endswith("0.00 → 1.00")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_of_runs_breaks_no_number(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(show_runs([(a_run(1), 0.0), (a_run(-1000), 1.0)], width))
    assert isinstance(console.file, io.StringIO)
    told = console.file.getvalue()
    assert "-0.12 → 0.37" in told
    assert "123.00 → -369.00" in told
    assert "4 of 4" in told
    assert ("left out here: last worked on" in told) != ("1970-01-01" in told)
