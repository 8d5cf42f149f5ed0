"""Charts as inline SVG: no library, no script, no style attribute (the page's security policy forbids them).

All text is escaped. Colours come from classes of ``audit.css``, so a chart works in light mode, dark
mode and print.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup

WIDTH, HEIGHT = 372, 176
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 24
"""Size of a chart and its margins, in SVG units."""
MOST_LABELS = 12


@dataclass(frozen=True, slots=True)
class Series:
    """One curve over the iterations; None where there is no value. ``low`` and ``high``: edges of its band."""

    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    style: str = "main"


@dataclass(frozen=True, slots=True)
class Scale:
    """Converts data to SVG units along one axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of ``value``."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def curves(
    title: str,
    series: Sequence[Series],
    labels: Sequence[str],
    *,
    mark: int | None = None,
    limits: Sequence[tuple[float, str]] = (),
    digits: int = 2,
) -> Markup:
    """Curves over ``labels``. ``mark``: index of the ringed point. ``limits``: dashed lines, each value and name."""
    numbers = [v for s in series for part in (s.values, s.low, s.high) for v in part if _is_number(v)]
    if not numbers:
        return Markup("")
    shown = [(value, name) for value, name in limits if _near(value, numbers)]
    low, high = _padded([*numbers, *(value for value, _ in shown)])
    x = Scale(0, max(len(labels) - 1, 1), LEFT + 6, WIDTH - RIGHT)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [_grid(y, ticks(low, high), digits), _x_labels(x, labels)]
    parts += [_limit(y(value), name) for value, name in shown]
    parts += [_band(s, x, y) for s in series] + [_line(s, x, y) for s in series]
    parts += [_points(s, x, y, mark) for s in series]
    return _figure(title, parts)


def histogram(title: str, everything: Sequence[float], chosen: Sequence[float], *, bins: int = 28) -> Markup:
    """Distribution of all rewards, with that of the selected ones in front of it."""
    everything, chosen = ([v for v in values if _is_number(v)] for values in (everything, chosen))
    if not everything:
        return Markup("")
    low, high = min(everything), max(everything)
    if low == high:
        room = max(0.5, abs(low) * 0.01)
        low, high = low - room, high + room
    counts = [_counted(values, low, high, bins) for values in (everything, chosen)]
    x, y = Scale(low, high, LEFT, WIDTH - RIGHT), Scale(0, max(counts[0]) * 1.06, HEIGHT - BOTTOM, TOP)
    step = (WIDTH - RIGHT - LEFT) / bins
    bars = Markup("").join(
        Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            style, LEFT + i * step + 0.5, y(count), step - 1, y(0) - y(count)
        )
        for style, row in zip(("bar", "bar chosen"), counts, strict=True)
        for i, count in enumerate(row)
        if count
    )
    below = Markup("").join(
        _text(x(value), HEIGHT - 7, _number(value, 1), "middle") for value in ticks(low, high) if low <= value <= high
    )
    return _figure(title, [_grid(y, ticks(0, max(counts[0]), most=min(6, max(counts[0]))), 0), bars, below])


def interval(value: float | None, low: float | None, high: float | None, span: tuple[float, float]) -> Markup:
    """A value and its interval on the scale ``span``, for a table cell."""
    if not _is_number(value) or span[0] == span[1]:
        return Markup("")
    x = Scale(*span, 4, 116)
    at = x(value)
    ends = [x(end) if _is_number(end) else at for end in (low, high)]
    zero = Markup('<line class="zero" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="14"/>').format(x(0))
    return Markup(
        '<svg class="interval" viewBox="0 0 120 14" width="120" height="14" aria-hidden="true">{}'
        '<line class="reach" x1="{:.1f}" x2="{:.1f}" y1="7" y2="7"/>'
        '<circle class="dot" cx="{:.1f}" cy="7" r="3.2"/></svg>'
    ).format(zero if span[0] < 0 < span[1] else Markup(""), *ends, at)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``, at most ``most`` + 1: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, title, title, Markup("").join(parts)
    )


def _grid(y: Scale, values: Sequence[float], digits: int) -> Markup:
    lines = [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>{}').format(
            LEFT,
            WIDTH - RIGHT + 6,
            y(value),
            y(value),
            _text(LEFT - 7, y(value) + 3.4, _number(value, _digits(values, digits)), "end"),
        )
        for value in values
    ]
    return Markup("").join(lines)


def _x_labels(x: Scale, labels: Sequence[str]) -> Markup:
    every = math.ceil(len(labels) / MOST_LABELS)
    shown = [(i, label) for i, label in enumerate(labels) if i % every == 0]
    return Markup("").join(_text(x(i), HEIGHT - 7, label, "middle") for i, label in shown)


def _limit(height: float, name: str) -> Markup:
    return Markup('<line class="limit" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>{}').format(
        LEFT, WIDTH - RIGHT + 6, height, height, _text(WIDTH - RIGHT + 6, height - 4, name, "end", "limit-name")
    )


def _band(series: Series, x: Scale, y: Scale) -> Markup:
    ends = [
        (x(i), y(low), y(high))
        for i, (low, high) in enumerate(zip(series.low, series.high, strict=True))
        if _is_number(low) and _is_number(high)
    ]
    if len(ends) < 2:
        return Markup("")
    outline = [f"{at:.1f},{top:.1f}" for at, _, top in ends] + [f"{at:.1f},{low:.1f}" for at, low, _ in reversed(ends)]
    return Markup('<polygon class="band {}" points="{}"/>').format(series.style, " ".join(outline))


def _line(series: Series, x: Scale, y: Scale) -> Markup:
    """One line a stretch of values: a gap stays a gap."""
    stretches: list[list[str]] = [[]]
    for i, value in enumerate(series.values):
        if _is_number(value):
            stretches[-1].append(f"{x(i):.1f},{y(value):.1f}")
        elif stretches[-1]:
            stretches.append([])
    return Markup("").join(
        Markup('<polyline class="line {}" points="{}"/>').format(series.style, " ".join(points))
        for points in stretches
        if len(points) > 1
    )


def _points(series: Series, x: Scale, y: Scale, mark: int | None) -> Markup:
    dense = len(series.values) > 40
    return Markup("").join(
        Markup('<circle class="point {}{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            series.style, " marked" if i == mark else "", x(i), y(value), 4.6 if i == mark else 2.6
        )
        for i, value in enumerate(series.values)
        if _is_number(value) and (not dense or i == mark)
    )


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(style, x, y, anchor, text)


def _counted(values: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(max(int((value - low) / (high - low) * bins), 0), bins - 1)] += 1
    return counts


def _padded(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
    return (0.0 if low >= 0 and low < (high - low) * 0.6 else low - room), high + room


def _near(limit: float, numbers: Sequence[float]) -> bool:
    """Whether a limit is close enough to be drawn without flattening the curve."""
    low, high = min(numbers), max(numbers)
    reach = max(high - low, abs(high) * 0.05) * 1.6
    return low - reach <= limit <= high + reach


def _digits(values: Sequence[float], least: int) -> int:
    """Number of decimals that keeps the tick labels distinct."""
    step = values[1] - values[0] if len(values) > 1 else 1.0
    return max(0, min(least + 2, -math.floor(math.log10(step)))) if step > 0 else least


def _number(value: float, digits: int) -> str:
    return f"{value + 0.0:,.{digits}f}".replace("-", "−")


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
