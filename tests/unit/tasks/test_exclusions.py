"""A run without its workspace's excluded prompts: what is left, and what is recorded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from raft_core.config.run import RaftConfig
from raft_core.errors import InputError
from raft_core.forgetting.exclusions import add_exclusion
from raft_core.records.run import Run, open_run
from raft_core.types import Prompt
from tasks.loop.prepare import _allowed_splits, perplexity_texts

NOW = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def run(tmp_path: Path, checked_config: Callable[..., RaftConfig]) -> Run:
    (tmp_path / "train.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "held.txt").write_text("four\nfive\n")
    prompts = {"train": str(tmp_path / "train.txt"), "held_out": str(tmp_path / "held.txt")}
    return open_run(tmp_path / "runs", "one", checked_config(prompts=prompts))


def test_excluded_prompts_are_left_out_and_named(run: Run, tmp_path: Path) -> None:
    before = _allowed_splits(run)
    assert not (run.path / "exclusions.json").exists()
    gone = [Prompt.of("two"), Prompt.of("five")]
    add_exclusion(tmp_path, prompts=gone, sources=[], time=NOW)
    after = _allowed_splits(run)
    assert [p.text for p in after.train] == [p.text for p in before.train if p.text != "two"]
    assert [p.text for p in after.held_out] == ["four"]
    recorded = json.loads((run.path / "exclusions.json").read_text())
    assert recorded == {"prompts": sorted(p.prompt_id for p in gone)}


def test_texts_of_the_perplexity_are_left_out_and_named(
    tmp_path: Path, checked_config: Callable[..., RaftConfig]
) -> None:
    (tmp_path / "train.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "texts.jsonl").write_text(
        "".join(
            json.dumps({"text": text, "source": source}) + "\n"
            for text, source in (("two", "films"), ("six", "films"), ("seven", "books"), ("eight", "films"))
        )
    )
    config = checked_config(
        prompts={"train": str(tmp_path / "train.txt"), "held_out_share": 0.34},
        evaluation={"perplexity_text": str(tmp_path / "texts.jsonl"), "max_perplexity_texts": 3},
    )
    run = open_run(tmp_path / "runs", "one", config)
    assert perplexity_texts(config, tmp_path) == (["two", "six", "seven"], [])
    with_reference = Prompt.of("two", reference="of another prompt with this text")
    add_exclusion(tmp_path, prompts=[with_reference], sources=["books"], time=NOW)
    left_out = [Prompt.of("two").prompt_id, Prompt.of("seven").prompt_id]
    assert perplexity_texts(config, tmp_path) == (["six"], left_out)  # "eight" does not take a place
    _allowed_splits(run)
    assert json.loads((run.path / "exclusions.json").read_text()) == {"prompts": sorted(left_out)}
    add_exclusion(tmp_path, prompts=[Prompt.of("six")], sources=[], time=NOW)
    with pytest.raises(InputError, match="perplexity texts") as refused:
        _allowed_splits(run)
    assert str(tmp_path / "exclusions.jsonl") in str(refused.value.got)


def test_nothing_left_is_told(run: Run, tmp_path: Path) -> None:
    add_exclusion(tmp_path, prompts=[Prompt.of(text) for text in ("one", "two", "three")], sources=[], time=NOW)
    with pytest.raises(InputError, match=r"prompts.*\n.*3 excluded"):
        _allowed_splits(run)
