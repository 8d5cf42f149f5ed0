"""What is excluded stays out, and every other prompt stays where it was."""

import json
from pathlib import Path

import pytest

from raft_core.errors import IntegrityError
from raft_core.forgetting.exclusions import FILE, RECORD, add_exclusion, read_exclusions, record_left_out, without
from raft_core.prompts.splits import Splits
from raft_core.types import Prompt

A, B, C = Prompt.of("a", source="books"), Prompt.of("b", source="films"), Prompt.of("c", source="films")
NOW = "2026-01-01T00:00:00+00:00"


def test_by_id_text_and_source(tmp_path: Path) -> None:
    assert not read_exclusions(tmp_path).covers(A)
    assert add_exclusion(tmp_path, prompts=[A], sources=[], time=NOW)
    excluded = read_exclusions(tmp_path)
    assert [excluded.covers(p) for p in (A, B, C)] == [True, False, False]
    assert excluded.covers(Prompt.of("a", reference="another id, the same text"))
    assert add_exclusion(tmp_path, prompts=[B.prompt_id], sources=["books"], time=NOW)
    excluded = read_exclusions(tmp_path)
    assert [excluded.covers(p) for p in (A, B, C, Prompt.of("new", source="books"))] == [True, True, False, True]


def test_the_same_act_twice_is_one(tmp_path: Path) -> None:
    assert add_exclusion(tmp_path, prompts=[A], sources=["films"], time=NOW)
    assert not add_exclusion(tmp_path, prompts=[A], sources=["films"], time=NOW)
    assert len((tmp_path / FILE).read_text().splitlines()) == 1


def test_no_text_is_kept(tmp_path: Path) -> None:
    add_exclusion(tmp_path, prompts=[Prompt.of("a secret text")], sources=[], time=NOW)
    assert "secret" not in (tmp_path / FILE).read_text()


def test_splits_keep_their_members(tmp_path: Path) -> None:
    add_exclusion(tmp_path, prompts=[A], sources=[], time=NOW)
    splits, left_out = without(Splits((A, B), (C,)), read_exclusions(tmp_path))
    assert (splits.train, splits.held_out, left_out) == ((B,), (C,), [A.prompt_id])
    whole = Splits((B,), (C,))
    assert without(whole, read_exclusions(tmp_path)) == (whole, [])


def test_the_record_of_a_run(tmp_path: Path) -> None:
    record_left_out(tmp_path, ["p"])
    assert json.loads((tmp_path / RECORD).read_text()) == {"prompts": ["p"]}
    record_left_out(tmp_path, [])
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("line", ['{"prompts": []', "[]", '{"prompts": ["p"], "texts": []}'])
def test_a_line_that_cannot_be_read_stops_everything(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(line + "\n")
    with pytest.raises(IntegrityError, match=rf"line 1 of .*{FILE}"):
        read_exclusions(tmp_path)
