"""Numbers, sparklines, and text that a terminal does not obey."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.text import BARS, harmless, number, percent, person, sparkline, words
from raft_core.errors import ConfigError


def test_a_sparkline_by_hand() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0, 1.0, 2.0]) == "█▁▅"
    assert sparkline([5.0, 5.0]) == "▅▅"
    assert sparkline([1.0, None, 2.0]) == "▁ █"
    assert sparkline([None, float("nan"), float("inf")]) == "   "
    assert sparkline([]) == ""


@given(st.lists(st.none() | st.floats()))
def test_a_sparkline_has_a_character_a_value_and_its_extremes(values: list[float | None]) -> None:
    line = sparkline(values)
    assert len(line) == len(values)
    known = [v for v in values if v is not None and abs(v) < 1e300]
    if len(known) == len(values) and len(set(known)) > 1:
        assert line[values.index(min(known))] == BARS[0]
        assert line[values.index(max(known))] == BARS[-1]


@given(st.text(alphabet=st.characters(blacklist_categories=[])))
def test_no_control_or_direction_character_survives(text: str) -> None:
    shown = harmless(text)
    assert not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in shown)
    assert not any(unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI"} for c in shown)
    assert shown.encode().decode() == shown


def test_what_is_made_visible() -> None:
    assert harmless("a\x1b[31mb\r\n\tc\u202ed") == "a\\x1b[31mb\\x0d⏎⇥c\\x202ed"
    assert harmless("naïve 日本 🎬 [bold]") == "naïve 日本 🎬 [bold]"
    assert harmless("abcdef", limit=4) == "abc…"
    assert harmless("abcd", limit=4) == "abcd"


def test_numbers() -> None:
    assert [number(v) for v in (None, 0.684, -1, 12345.678, True, "x")] == ["–", "0.68", "-1.00", "12,345.68", "–", "–"]
    assert [percent(v) for v in (None, 0.125, 1)] == ["–", "12%", "100%"]


@pytest.mark.parametrize("name", ["", " \n", "\u200b", "\u00ad\u2060", "\x00\ud800"])
def test_nobody_acts_without_a_name_that_can_be_seen(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        person(name)
    assert caught.value.got == ascii(name)
    assert "--by" in str(caught.value.hint)


def test_names_and_reasons_as_they_stand_in_the_ledger() -> None:
    assert [person(name) for name in ("Ann", " Ann\u200b", "A\x07nn", "Ann Lee")] == ["Ann", "Ann", "Ann", "Ann Lee"]
    assert len(person("a" * 200)) == 100
    assert words(" so\x1b[2J\n") == "so\\x1b[2J"
    assert len(words("a" * 2000)) == 1000
