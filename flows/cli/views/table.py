"""A run, or all runs, as tables."""

import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.cli.views.figures import figures, natural_width, table_width
from flows.text import harmless, number, sparkline
from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.records.overview import Row, RunView
from raft_core.redaction import redacted_text

STYLES = {
    "running": "cyan",
    "completed": "green",
    "converged": "green",
    "stopped": "yellow",
    "interrupted": "magenta",
    "broken": "red",
    "failed": "red",
}


MOST_WARNINGS = 5


def show_run(view: RunView, width: int) -> RenderableType:
    """The table of a run in ``width`` characters, its trends, its status and its warnings."""
    parts: list[RenderableType] = [figures(view, width)]
    if len(view.rows) > 1:
        parts.append(_trends(view, width))
    parts.append(_status(view))
    if rough := _rough(view.rows):
        parts.append(rough)
    return Group(*parts, *_warnings(view.warnings))


def _warnings(messages: Sequence[str]) -> list[Text]:
    """The last few different warnings, each with the number of its occurrences."""
    counted = list(Counter(messages).items())
    lines = [
        Text.assemble(("! ", "yellow"), harmless(text, 300), (f" ({count} times)" if count > 1 else "", "dim"))
        for text, count in counted[-MOST_WARNINGS:]
    ]
    if len(counted) > MOST_WARNINGS:
        more = f"  more warnings in the run's events.jsonl: {len(counted) - MOST_WARNINGS}"
        lines.append(Text(more, style="dim"))
    return lines


def _trends(view: RunView, width: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    most_bars = max(8, width - 50)
    for figure in view.figures:
        if not figure.headline or figure.percent:
            continue
        values, digits = [row.get(figure.name) for row in view.rows], figure.decimals
        known = [value for value in values if value is not None]
        if known:
            change = f"{number(known[0], digits)} → {number(known[-1], digits)}"
            bars = Text(sparkline(_thinned(values, most_bars)), style="cyan", no_wrap=True)
            table.add_row(Text(figure.column or figure.title, style="dim"), bars, Text(change, no_wrap=True))
    return table


def _thinned(values: Sequence[float | None], most: int) -> list[float | None]:
    """At most ``most`` of ``values``, evenly spaced, always with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _rough(rows: Sequence[Row]) -> Text | None:
    num_prompts = min((row.get("num_prompts") or HOLDS_FROM for row in rows), default=HOLDS_FROM)
    if num_prompts >= HOLDS_FROM:
        return None
    return Text(
        f"rough intervals: only {num_prompts} held-out prompts; intervals are reliable from {HOLDS_FROM} prompts on",
        style="yellow",
    )


def _status(view: RunView) -> Text:
    best = "" if view.best is None else f", best: {'base' if view.best == -1 else f'iteration {view.best}'} ★"
    return Text.assemble(
        (harmless(view.name), "bold"),
        " ",
        (view.status, STYLES.get(view.status, "")),
        f"{best}: {harmless(view.reason, 1000)}",
    )


RUNS_GAP = 2
RUNS_LAYOUTS = ((True, "%Y-%m-%d %H:%M", 6), (False, "%Y-%m-%d %H:%M", 6), (False, "%Y-%m-%d", 6), (False, "", 5))
"""Layouts of the list of runs, widest first: (with bars, format of the time, number of columns)."""


def show_runs(views: Sequence[tuple[RunView, float]], width: int) -> RenderableType:
    """One row per run in ``width`` characters, then why runs failed or were stopped.

    ``views``: each with the time at which the run was last worked on. Long names are broken over lines, numbers never.
    """
    titles = ["run", "status", "iterations", "best", "reward", "last worked on"]
    for bars, when, last in RUNS_LAYOUTS:
        cells = [titles[:last], *(_run_cells(view, touched, bars=bars, when=when)[:last] for view, touched in views)]
        if table_width(cells, RUNS_GAP) <= width:
            break
    table = Table(box=None, header_style="bold", padding=(0, RUNS_GAP, 0, 0), pad_edge=False)
    for title in cells[0]:
        table.add_column(title, no_wrap=title != "run", overflow="fold" if title == "run" else "ellipsis")
    for (view, _), texts in zip(views, cells[1:], strict=True):
        name, status, *others = texts
        table.add_row(name, Text(status, style=STYLES.get(view.status, "")), *others)
    ended = [view for view, _ in views if view.status in ("failed", "stopped", "broken")]
    why = [
        Text.assemble(
            (harmless(view.name), "bold"), " ", (view.status, STYLES[view.status]), f": {_short(view.reason)}"
        )
        for view in ended
    ]
    missing = titles[len(cells[0]) :]
    note = Text(f"left out here: {', '.join(missing)} (a wider terminal shows it)", style="dim")
    return Group(table, *([note] if missing else []), *why)


def _run_cells(view: RunView, touched: float, *, bars: bool, when: str) -> list[str]:
    rewards = [row.get("reward") for row in view.rows]
    change = f"{number(rewards[0])} → {number(view.reward)}" if rewards else "–"
    if bars and rewards:
        change += f" {sparkline(_thinned(rewards, 40))}"
    best = "–" if view.best is None else "base" if view.best == -1 else str(view.best)
    done = f"{max(len(view.rows) - 1, 0)} of {view.planned}" if view.planned else "–"
    return [view.name, view.status, done, best, change, datetime.fromtimestamp(touched).strftime(when)]


def _short(reason: str) -> str:
    return harmless(reason, 300)


def what_next(name: str, tracking_uri: str) -> str:
    """Three commands to look at the results of an alignment."""
    tracking_uri = redacted_text(tracking_uri)
    ui = (
        f"open {tracking_uri}"
        if tracking_uri.startswith("http")
        else (f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}")
    )
    pages = {
        f"raft show {name}": "this table again",
        f"raft lineage show {name}": "what each policy was made from",
        ui: "all curves",
    }
    return "\n".join(f"{command}  # {what}" for command, what in pages.items())


def print_run(console: Console, view: RunView, *, wide: bool = False) -> None:
    """Print the table of a run within the width of the console; with ``wide``, every column at full width."""
    if wide:
        console.width = max(console.width, natural_width(view))
    console.print(show_run(view, console.width))
