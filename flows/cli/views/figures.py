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
from raft_core.metrics.base import Figure
from raft_core.metrics.registry import in_table
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


def _plain(figure: Figure) -> Callable[[Row, Layout], str]:
    return lambda row, layout: compact(row.get(figure.name), figure.decimals, layout)


def _share(name: str) -> Callable[[Row, Layout], str]:
    return lambda row, layout: percent(row.get(name))


def _interval(figure: Figure) -> Callable[[Row, Layout], str]:
    return lambda row, layout: _with_interval(row, layout, figure)


def _with_interval(row: Row, layout: Layout, figure: Figure) -> str:
    value, low, high = (row.get(f"{figure.name}{end}") for end in ("", "_low", "_high"))
    mean = compact(value, figure.decimals, layout)
    if value is None or low is None or high is None or layout.interval == "none" or figure.rank:
        return mean
    if layout.interval == "half":
        return f"{mean} ±{compact(max(abs(high - value), abs(value - low)), figure.decimals, layout)}"
    return f"{mean} [{compact(low, figure.decimals, layout)}, {compact(high, figure.decimals, layout)}]"


def _took(row: Row, layout: Layout) -> str:
    """Minutes:seconds."""
    seconds = round(row.get("seconds") or 0)
    return f"{seconds // 60}:{seconds % 60:02d}" if seconds else "–"


def _column(figure: Figure) -> Column:
    cell = _interval(figure) if figure.interval else _share(figure.name) if figure.percent else _plain(figure)
    return Column(figure.column or figure.title, figure.short or figure.column, figure.rank or 0, cell)


def _columns(view: RunView) -> list[Column]:
    return [*map(_column, in_table(view.figures)), Column("time", "time", 8, _took)]


def figures(view: RunView, width: int) -> RenderableType:
    """One row per iteration, within ``width`` characters."""
    layout, columns = _fitting(view, width)
    cells = list(_cells(view, columns, layout))
    table = Table(box=None, header_style="bold", padding=(0, layout.gap, 0, 0), pad_edge=False)
    for position, title in enumerate(cells[0]):
        table.add_column(title, justify="right" if position else "left", no_wrap=True)
    for row, texts in zip(view.rows, cells[1:], strict=True):
        table.add_row(*texts, style="bold" if row["iteration"] == view.best else "")
    return Group(table, Text("; ".join(_notes(view, columns, layout)), style="dim"))


def natural_width(view: RunView) -> int:
    """Width of the table in characters when nothing is shortened."""
    return _width(list(_cells(view, _columns(view), LAYOUTS[0])), LAYOUTS[0])


def _fitting(view: RunView, width: int) -> tuple[Layout, Sequence[Column]]:
    """The first layout in which all columns fit; else the shortest, without the least important columns."""
    every = _columns(view)
    for layout in LAYOUTS:
        if _width(list(_cells(view, every, layout)), layout) <= width:
            return layout, every
    for most in sorted((column.rank for column in every), reverse=True):
        columns = [column for column in every if column.rank <= most]
        if _width(list(_cells(view, columns, LAYOUTS[-1])), LAYOUTS[-1]) <= width:
            return LAYOUTS[-1], columns
    return NARROWEST, every[:1]


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


def _notes(view: RunView, columns: Sequence[Column], layout: Layout) -> Iterator[str]:
    """Legend of the table: shortened titles, intervals, and what was left out."""
    if renamed := [c for c in columns if layout.short and c.short != c.title]:
        yield ", ".join(f"{c.short} = {c.title}" for c in renamed)
    if layout.interval == "half":
        yield "± = the longer half of the interval"
    left_out = [c.title for c in _columns(view) if c.title not in {kept.title for kept in columns}]
    if layout.interval == "none":
        left_out.insert(0, "the reward's interval")
    if left_out:
        yield f"left out here: {', '.join(left_out)} (raft show --wide, or --json, has them)"
    yield f"{BEST} = best iteration; columns are explained by raft show --help"
