"""What was forgotten is said where its rows are asked for, not called unknown."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli.views.trace import show_trace
from flows.forgetting.forget import carry_out, plan
from flows.forgetting.forgotten_before import forgotten_before, tombstones
from flows.lineage import reproduce as reproducing
from flows.lineage.reproduce import reproduce
from flows.lineage.tracing import Traced, iterations_of, join_events
from raft_core.audit.index import open_index
from raft_core.audit.trace import By, find
from raft_core.errors import InputError, StepError
from raft_core.promotion.ledger import FileLedger
from raft_core.records.run import Run
from raft_core.types import Prompt

pytestmark = pytest.mark.slow

OFF = {"enabled": False}
TWO = Prompt.of("two").prompt_id


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    return make_run(versioning=OFF)


def forget(workspace: Path, by: By, value: str, *, erase: bool) -> None:
    uri, ledger = f"sqlite:///{workspace}/mlflow.db", FileLedger(workspace / "ledger.jsonl")
    carry_out(plan(workspace, by, value, uri), workspace, uri, ledger, by="ann", erase=erase)


def answer(workspace: Path, by: By, value: str, capsys: pytest.CaptureFixture[str]) -> str:
    from rich.console import Console

    with open_index(workspace / "runs") as index:
        traced: Traced = join_events(find(index, by, value), workspace / "runs")
    Console(width=400, file=sys.stdout).print(show_trace(traced, 12, forgotten_before(workspace, by, value)))
    return capsys.readouterr().out


def test_an_erased_prompt(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert forgotten_before(tmp_path, "prompt", TWO) == []
    forget(tmp_path, "prompt", TWO, erase=True)
    (known,) = forgotten_before(tmp_path, "prompt", TWO[:8])
    assert (known.value, known.erased_from) == (TWO, ("first@0", "first@1"))
    assert json.loads((tmp_path / "exclusions.jsonl").read_text())["time"] == known.time
    assert (
        forgotten_before(tmp_path, "prompt", TWO[:3])
        == forgotten_before(tmp_path, "prompt", "0" * 32)
        == forgotten_before(tmp_path, "source", "x")
        == []
    )
    assert forgotten_before(tmp_path, "text", "two")[0].erased_from == known.erased_from
    told = answer(tmp_path, "prompt", TWO, capsys)
    assert "0 prompts, 0 samples" in told
    assert f"{TWO} was forgotten on {known.time[:10]}" in told
    assert "erased from first@0, first@1, and no row of it is here" in told


def test_a_source_that_was_not_erased(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forget(tmp_path, "source", "films", erase=False)
    assert "not erased, and rows of it are here" in answer(tmp_path, "source", "films", capsys)
    forget(tmp_path, "source", "films", erase=True)
    told = answer(tmp_path, "source", "films", capsys)
    assert "films was forgotten on" in told
    assert "erased from first@0, first@1, and no row" in told
    assert forgotten_before(tmp_path, "prompt", TWO)[0].erased_from == ("first@0", "first@1")


def test_a_sample_may_have_been_one_of_those(run: Run, tmp_path: Path) -> None:
    forget(tmp_path, "prompt", TWO, erase=True)
    erased = [place for place, _ in tombstones(tmp_path / "runs")]
    with (
        open_index(tmp_path / "runs") as index,
        pytest.raises(InputError, match="erased on purpose from first@0, first@1"),
    ):
        iterations_of(index, "f" * 32, None, erased)


def test_a_reproduction_says_where_how_long_and_that_erased_rows_come_back(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, quiet: bool) -> None:
        raise StepError(f"quiet: {quiet}")

    monkeypatch.setattr(reproducing, "_align", stop)
    told: list[str] = []
    for erase in (False, True):
        if erase:
            forget(tmp_path, "prompt", TWO, erase=True)
        told.clear()
        (scratch := tmp_path / f"again-{erase}").mkdir()
        with pytest.raises(StepError, match="quiet: True"):
            reproduce(run, tmp_path, scratch, clone=False, environment={}, say=told.append, quiet=True)
        assert any(str(scratch) in line and "run first" in line for line in told)
        assert any("rows of 2 iterations were erased" in line for line in told) == erase
