"""A run, or all runs, as tables."""

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.views.run import Row, RunView
from flows.views.text import harmless, number, percent, sparkline
from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.redaction import redacted_text

STYLES = {
    "running": "cyan", "completed": "green", "converged": "green", "stopped": "yellow", "interrupted": "magenta",
    "broken": "red", "failed": "red",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """One column; those of low ``rank`` survive on a narrow terminal."""

    title: str
    rank: int
    cell: Callable[[Row], str]


def _interval(row: Row, name: str) -> str:
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{number(value)} [{number(low)}, {number(high)}]" if low is not None else number(value)


def _took(row: Row) -> str:
    """Minutes and seconds, as a clock shows them."""
    seconds = round(row.get("seconds") or 0)
    return f"{seconds // 60}:{seconds % 60:02d}" if seconds else "–"


COLUMNS = (
    Column("reward", 0, lambda row: _interval(row, "reward")),
    Column("gold", 1, lambda row: number(row.get("gold_reward"))),
    Column("perplexity", 1, lambda row: number(row.get("perplexity"))),
    Column("distinct-1", 2, lambda row: number(row.get("distinct_1"), 3)),
    Column("distinct-2", 1, lambda row: number(row.get("distinct_2"), 3)),
    Column("KL", 1, lambda row: number(row.get("kl"))),
    Column("headroom", 2, lambda row: number(row.get("headroom"))),
    Column("truncated", 2, lambda row: percent(row.get("truncation"))),
    Column("accepted", 2, lambda row: percent(row.get("acceptance"))),
    Column("time", 1, _took),
)
WIDE, MIDDLE = 116, 84
"""Characters that all columns need, and those of rank 0 and 1."""

MOST_WARNINGS = 5
TRENDS = (("reward", 2), ("gold_reward", 2), ("perplexity", 2), ("distinct_2", 3), ("kl", 2))


def show_run(view: RunView, width: int) -> RenderableType:
    """The table of a run, its trends, its status and what it warned of."""
    parts: list[RenderableType] = [_table(view, width)]
    if len(view.rows) > 1:
        parts.append(_trends(view.rows))
    parts.append(_status(view))
    if rough := _rough(view.rows):
        parts.append(rough)
    return Group(*parts, *_warnings(view.warnings))


def _warnings(messages: Sequence[str]) -> list[Text]:
    """The last few different ones, each with how often it came."""
    counted = list(Counter(messages).items())
    lines = [
        Text.assemble(("! ", "yellow"), harmless(text, 300), (f" ({count} times)" if count > 1 else "", "dim"))
        for text, count in counted[-MOST_WARNINGS:]
    ]
    if len(counted) > MOST_WARNINGS:
        lines.append(Text(f"  and {len(counted) - MOST_WARNINGS} other warnings in events.jsonl", style="dim"))
    return lines


def _table(view: RunView, width: int) -> Table:
    most = 2 if width >= WIDE else 1 if width >= MIDDLE else 0
    columns = [column for column in COLUMNS if column.rank <= most]
    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column("iteration", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for row in view.rows:
        label = "base" if row["iteration"] == -1 else str(row["iteration"])
        best = row["iteration"] == view.best
        cells = [column.cell(row) for column in columns]
        table.add_row(f"{label} ★" if best else label, *cells, style="bold" if best else "")
    return table


def _trends(rows: Sequence[Row]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, digits in TRENDS:
        values = [row.get(name) for row in rows]
        known = [value for value in values if value is not None]
        if known:
            change = f"{number(known[0], digits)} → {number(known[-1], digits)}"
            table.add_row(Text(name.replace("_", " "), style="dim"), Text(sparkline(values), style="cyan"), change)
    return table


def _rough(rows: Sequence[Row]) -> Text | None:
    num_prompts = min((row.get("num_prompts") or HOLDS_FROM for row in rows), default=HOLDS_FROM)
    if num_prompts >= HOLDS_FROM:
        return None
    return Text(
        f"rough intervals: {num_prompts} held-out prompts; from {HOLDS_FROM} on they cover as often as they say",
        style="yellow",
    )


def _status(view: RunView) -> Text:
    best = "" if view.best is None else f", best: {'base' if view.best == -1 else f'iteration {view.best}'} ★"
    return Text.assemble(
        (harmless(view.name), "bold"), " ", (view.status, STYLES.get(view.status, "")),
        f"{best}: {harmless(view.reason, 1000)}",
    )  # fmt: skip


def show_runs(views: Sequence[tuple[RunView, float]]) -> RenderableType:
    """One row a run, then why those ended that did not end well; each view with the time it was last worked on."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for title in ("run", "status", "iterations", "best", "reward", "last worked on"):
        table.add_column(title, no_wrap=title == "run")
    for view, touched in views:
        rewards = [row.get("reward") for row in view.rows]
        change = f"{number(rewards[0])} → {number(view.reward)} {sparkline(rewards)}" if rewards else "–"
        best = "–" if view.best is None else "base" if view.best == -1 else str(view.best)
        done = f"{max(len(view.rows) - 1, 0)} of {view.planned}" if view.planned else "–"
        when = datetime.fromtimestamp(touched).strftime("%Y-%m-%d %H:%M")
        table.add_row(view.name, Text(view.status, style=STYLES.get(view.status, "")), done, best, change, when)
    ended = [view for view, _ in views if view.status in ("failed", "stopped", "broken")]
    why = [
        Text.assemble(
            (harmless(view.name), "bold"), " ", (view.status, STYLES[view.status]), f": {_short(view.reason)}"
        )
        for view in ended
    ]
    return Group(table, *why)


def _short(reason: str) -> str:
    return harmless(reason, 300)


def what_next(name: str, tracking_uri: str) -> str:
    """The three lines that say what to look at after an alignment."""
    tracking_uri = redacted_text(tracking_uri)
    ui = f"open {tracking_uri}" if tracking_uri.startswith("http") else (
        f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}"
    )  # fmt: skip
    return f"raft show {name}\nraft lineage show {name}\n{ui}"


def print_run(console: Console, view: RunView) -> None:
    """Print the table of a run."""
    console.print(show_run(view, console.width))
