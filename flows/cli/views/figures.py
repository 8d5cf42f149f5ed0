"""The figures of a run as a table that fits the terminal.

If it is too wide, titles are shortened first, then intervals, then columns are left out.

A number is never broken over two lines. A note under the table says what was left out and how to see it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.text import number, percent
from raft_core.records.overview import Row, RunView

BEST = "★"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the table is written. ``interval``: both "ends", or "half" (± its longer half), or "none"."""

    short: bool
    gap: int
    interval: str


LAYOUTS = (
    Layout(short=False, gap=2, interval="ends"),
    Layout(short=True, gap=2, interval="ends"),
    Layout(short=True, gap=1, interval="ends"),
    Layout(short=True, gap=1, interval="half"),
)
NARROWEST = Layout(short=True, gap=1, interval="none")


@dataclass(frozen=True, slots=True)
class Column:
    """One column; on a narrow terminal those with the highest ``rank`` are left out first."""

    title: str
    short: str
    rank: int
    cell: Callable[[Row, Layout], str]


def compact(value: object, digits: int, layout: Layout) -> str:
    """A figure; in a short layout large ones are rounded: 12,346 and 1.23e6."""
    if not layout.short or not isinstance(value, int | float) or isinstance(value, bool) or abs(value) < 100:
        return number(value, digits)
    if abs(value) < 1e6:
        return number(value, 1 if abs(value) < 1000 else 0)
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _figure(name: str, digits: int = 2) -> Callable[[Row, Layout], str]:
    return lambda row, layout: compact(row.get(name), digits, layout)


def _share(name: str) -> Callable[[Row, Layout], str]:
    return lambda row, layout: percent(row.get(name))


def _reward(row: Row, layout: Layout) -> str:
    value, low, high = (row.get(f"reward{end}") for end in ("", "_low", "_high"))
    mean = compact(value, 2, layout)
    if value is None or low is None or high is None or layout.interval == "none":
        return mean
    if layout.interval == "half":
        return f"{mean} ±{compact(max(abs(high - value), abs(value - low)), 2, layout)}"
    return f"{mean} [{compact(low, 2, layout)}, {compact(high, 2, layout)}]"


def _took(row: Row, layout: Layout) -> str:
    """Minutes:seconds."""
    seconds = round(row.get("seconds") or 0)
    return f"{seconds // 60}:{seconds % 60:02d}" if seconds else "–"


COLUMNS = (
    Column("reward", "reward", 0, _reward),
    Column("gold", "gold", 1, _figure("gold_reward")),
    Column("perplexity", "ppl", 2, _figure("perplexity")),
    Column("distinct-1", "dist-1", 5, _figure("distinct_1", 3)),
    Column("distinct-2", "dist-2", 4, _figure("distinct_2", 3)),
    Column("KL", "KL", 3, _figure("kl")),
    Column("headroom", "room", 6, _figure("headroom")),
    Column("truncated", "cut", 7, _share("truncation")),
    Column("accepted", "kept", 9, _share("acceptance")),
    Column("time", "time", 8, _took),
)


def figures(view: RunView, width: int) -> RenderableType:
    """One row per iteration, within ``width`` characters."""
    layout, columns = _fitting(view, width)
    cells = list(_cells(view, columns, layout))
    table = Table(box=None, header_style="bold", padding=(0, layout.gap, 0, 0), pad_edge=False)
    for position, title in enumerate(cells[0]):
        table.add_column(title, justify="right" if position else "left", no_wrap=True)
    for row, texts in zip(view.rows, cells[1:], strict=True):
        table.add_row(*texts, style="bold" if row["iteration"] == view.best else "")
    return Group(table, Text("; ".join(_notes(columns, layout)), style="dim"))


def natural_width(view: RunView) -> int:
    """Width of the table in characters when nothing is shortened."""
    return _width(list(_cells(view, COLUMNS, LAYOUTS[0])), LAYOUTS[0])


def _fitting(view: RunView, width: int) -> tuple[Layout, Sequence[Column]]:
    """The first layout in which all columns fit; else the shortest, without the least important columns."""
    for layout in LAYOUTS:
        if _width(list(_cells(view, COLUMNS, layout)), layout) <= width:
            return layout, COLUMNS
    for most in sorted((column.rank for column in COLUMNS), reverse=True):
        columns = [column for column in COLUMNS if column.rank <= most]
        if _width(list(_cells(view, columns, LAYOUTS[-1])), LAYOUTS[-1]) <= width:
            return LAYOUTS[-1], columns
    return NARROWEST, COLUMNS[:1]


def _cells(view: RunView, columns: Sequence[Column], layout: Layout) -> Iterator[list[str]]:
    """The titles, then one list per row."""
    yield ["iter" if layout.short else "iteration", *((c.short if layout.short else c.title) for c in columns)]
    for row in view.rows:
        label = "base" if row["iteration"] == -1 else str(row["iteration"])
        mark = f" {BEST}" if row["iteration"] == view.best else ""
        yield [f"{label}{mark}", *(column.cell(row, layout) for column in columns)]


def _width(cells: Sequence[Sequence[str]], layout: Layout) -> int:
    return table_width(cells, layout.gap)


def table_width(cells: Sequence[Sequence[str]], gap: int) -> int:
    """Width of a table without a frame, in characters, with ``gap`` of them between two columns."""
    columns = list(zip(*cells, strict=True))
    return sum(max(map(cell_len, column)) for column in columns) + gap * (len(columns) - 1)


def _notes(columns: Sequence[Column], layout: Layout) -> Iterator[str]:
    """Legend of the table: shortened titles, intervals, and what was left out."""
    if renamed := [c for c in columns if layout.short and c.short != c.title]:
        yield ", ".join(f"{c.short} = {c.title}" for c in renamed)
    if layout.interval == "half":
        yield "± = the longer half of the interval"
    left_out = [c.title for c in COLUMNS if c not in columns]
    if layout.interval == "none":
        left_out.insert(0, "the reward's interval")
    if left_out:
        yield f"left out here: {', '.join(left_out)} (raft show --wide, or --json, has them)"
    yield f"{BEST} = best iteration; columns are explained by raft show --help"
