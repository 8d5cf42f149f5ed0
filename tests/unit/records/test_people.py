"""Names that look alike are one person's; people with other names stay other people."""

import unicodedata

import pytest

from raft_core.promotion.people import same_person, skeleton


@pytest.mark.parametrize(
    "other",
    [
        "alice",
        "ALICE",
        " Alice ",
        "Ａｌｉｃｅ",
        "𝐀𝐥𝐢𝐜𝐞",
        "Аlice",
        "Alіcе",
        "Αlice",
        "A\u200blice",
        "Ali\u00adce",
        "\u202eAlice",
        "A\u2066lice",
        "Alice\ufeff",
        "AIice",
        "A1ice",
        "Al\u0301ice",
        "Alice\u3164",
        "Al ice",
        "Alice\u2800",
        "A\u115flice",
        "Alice\u034f",
        "Alice\U000e0041",
        "Alice\ufe0f",
    ],
)
def test_disguises_are_one_person(other: str) -> None:
    assert same_person("Alice", other)
    assert same_person(other, "Alice")


@pytest.mark.parametrize("name", ["Łukasz", "田中", "Иван Петров", "Νίκος", "محمد", "José", "O'Brien", "李雷", "Ayşe"])
def test_a_name_in_any_script_is_a_name(name: str) -> None:
    assert skeleton(name)
    assert same_person(name, unicodedata.normalize("NFD", name))
    assert not same_person(name, "Alice")


@pytest.mark.parametrize(
    ("one", "other"), [("ann", "bob"), ("田中", "田口"), ("Łukasz", "Łucja"), ("Иван", "Пётр"), ("ann 1", "ann 2")]
)
def test_other_names_are_other_people(one: str, other: str) -> None:
    assert not same_person(one, other)
