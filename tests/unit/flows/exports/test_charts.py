"""Figures: where points lie, and that nothing odd breaks them."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.exports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, curves, histogram, interval, ticks


def points(svg: str) -> list[tuple[float, float]]:
    (found,) = re.findall(r'class="line main" points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in found.split()]  # type: ignore[misc]


def test_ticks_by_hand() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0, 10, most=4) == pytest.approx([0, 5, 10])
    assert ticks(0.19, 1.23) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    assert ticks(-3, 3) == pytest.approx([-3, -2, -1, 0, 1, 2, 3])
    assert ticks(5, 5) == [5]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_inside_and_even(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 1 <= len(found) <= 8
    assert all(low - width * 1e-6 <= tick <= low + width * (1 + 1e-6) for tick in found)


def test_a_curve_goes_from_left_to_right_and_up() -> None:
    (x0, y0), (x1, y1), (x2, y2) = points(curves("t", [Series([0.0, 1.0, 2.0])], ["a", "b", "c"]))
    assert LEFT < x0 < x1 < x2 == WIDTH - RIGHT
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert HEIGHT - BOTTOM >= y0 > y1 > y2 >= TOP


def test_a_gap_stays_a_gap_and_a_band_needs_two_ends() -> None:
    svg = curves("t", [Series([1.0, 2.0, None, 3.0, 4.0], [None] * 5, [None] * 5)], list("abcde"))
    assert svg.count("<polyline") == 2
    assert "<polygon" not in svg
    banded = curves("t", [Series([1.0, 2.0], [0.5, 1.5], [1.5, 2.5])], ["a", "b"])
    assert banded.count("<polygon") == 1


def test_a_limit_near_by_is_drawn_and_one_far_away_is_not() -> None:
    series = [Series([100.0, 102.0, 104.0])]
    assert 'class="limit"' in curves("t", series, list("abc"), limits=[(106.0, "limit")])
    assert 'class="limit"' not in curves("t", series, list("abc"), limits=[(900.0, "limit")])


def test_no_value_no_figure() -> None:
    assert curves("t", [Series([None, float("nan"), float("inf")])], list("abc")) == ""
    assert histogram("t", [], []) == ""
    assert interval(None, 0.0, 1.0, (0.0, 1.0)) == ""


def test_bars_are_as_high_as_their_counts() -> None:
    svg = histogram("t", [0.0, 0.0, 0.0, 1.0], [1.0], bins=2)
    heights = [float(h) for h in re.findall(r'class="bar" [^>]*height="([\d.]+)"', svg)]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.02)
    assert svg.count('class="bar chosen"') == 1


@given(
    st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=60),
    st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")),
)
def test_any_numbers_and_any_title_give_sound_svg(values: list[float | None], title: str) -> None:
    labels = [str(i) for i in range(len(values))]
    known = [v for v in values if v is not None]
    for svg in (curves(title, [Series(values)], labels, mark=0), histogram(title, known, known)):
        if svg:
            root = ElementTree.fromstring(str(svg))
            assert root.attrib["aria-label"] == title.replace("\n", " ").replace("\t", " ").replace("\r", " ")
            numbers = re.findall(r'\s(?:x|y|x1|y1|cx|cy|width|height)="([^"]*)"', svg)
            assert all(math.isfinite(float(number)) for number in numbers)
