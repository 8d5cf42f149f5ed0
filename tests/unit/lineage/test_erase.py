"""Rows that had to go are gone, the tombstone says so, and the chain still holds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raft_core.errors import IntegrityError
from raft_core.records.artifacts import file_digest
from raft_core.records.erasure import TOMBSTONE, digests_since, read_tombstone
from raft_core.records.removal import Target, holds, parquet_files, write_without
from raft_core.records.run import Run, read_chain, read_events, record_event, verify_outputs
from raft_core.records.tables import PERPLEXITY, to_table, write_table
from raft_core.records.verification import Verification, verify_run
from raft_core.types import Prompt
from tasks.erase import ErasedRows, erase_iteration, erase_messages, erase_run

MakeRun = Callable[..., Run]
TWO = Target(frozenset([Prompt.of("two").prompt_id]))


def erase(run: Run, target: Target) -> ErasedRows:
    done = ErasedRows()
    erase_run(run, target, "prompt two", run.path.parent.parent, done, lambda line: None)
    return done


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return make_run(versioning={"enabled": False})


def verified(run: Run) -> Verification:
    return verify_run(run, rehash=True)


def test_every_row_of_a_prompt_goes_and_no_other(run: Run) -> None:
    before = {path: pq.read_metadata(path).num_rows for path in parquet_files([run.path])}
    done = erase(run, TWO)
    # iteration 0: prompt, 2 samples, 2 scored, 1 selected, 1 quarantined; iteration 1 the same without the last
    assert done.rows == 7 + 6
    assert not any(holds(path, TWO) for path in parquet_files([run.path]))
    after = {path: pq.read_metadata(path).num_rows for path in parquet_files([run.path])}
    assert sum(before.values()) - sum(after.values()) == 13
    assert after[run.table(1, "samples")] == 4
    assert after[run.table(-1, "prompts")] == 1


def test_verify_says_erased_not_corrupt(run: Run) -> None:
    was = file_digest(run.table(0, "samples"))
    erase(run, TWO)
    found = verified(run)
    assert found.ok
    assert len(found.erased) == 5 + 4
    tombstone = read_tombstone(run.folder(0))
    assert tombstone is not None
    samples = tombstone.outputs["tables/samples.parquet"]
    assert (samples.was, samples.rows) == (was, 2)
    assert samples.now == file_digest(run.table(0, "samples"))
    assert tombstone.because == ("prompt two",)
    for commit in read_chain(run):
        verify_outputs(run, commit)


def test_corrupt_is_still_corrupt(run: Run, corrupt: Callable[[Path], None]) -> None:
    erase(run, TWO)
    corrupt(run.table(0, "samples"))
    corrupt(run.table(1, "prompts"))
    assert [(p.iteration, p.kind) for p in verified(run).problems] == [(0, "changed"), (1, "changed")]


def test_rows_that_come_back_are_told(run: Run, tmp_path: Path) -> None:
    kept = shutil.copy(run.table(0, "samples"), tmp_path / "kept.parquet")
    erase(run, TWO)
    shutil.copy(kept, run.table(0, "samples"))
    assert [p.kind for p in verified(run).problems] == ["returned"]


def test_a_kill_before_the_files_were_renamed_is_made_up_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            erase_iteration(run, read_chain(run)[1], TWO, "prompt two", run.path, ErasedRows())
    assert {p.kind for p in verified(run).problems} == {"returned"}
    erase(run, TWO)
    assert verified(run).ok
    tombstone = read_tombstone(run.folder(0))
    assert tombstone is not None
    assert tombstone.outputs["tables/samples.parquet"].rows == 2


def test_a_second_erasure_keeps_the_first(run: Run) -> None:
    was = file_digest(run.table(1, "samples"))
    erase(run, TWO)
    erase(run, Target(frozenset(), frozenset(["books"])))
    erase(run, Target(frozenset([Prompt.of("one").prompt_id])))
    tombstone = read_tombstone(run.folder(1))
    assert tombstone is not None
    samples = tombstone.outputs["tables/samples.parquet"]
    assert (samples.was, samples.rows) == (was, 4)
    assert verified(run).ok


def test_a_text_in_a_completion_alone(run: Run) -> None:
    done = erase(run, Target(frozenset(), text="three says 0 in 1"))
    assert done.rows == 1
    assert list(done.tombstones) == ["first@1"]


def test_a_prompt_that_is_a_text_of_the_perplexity_too(tmp_path: Path) -> None:
    """Its table holds no ids."""
    path = tmp_path / "perplexity.parquet"
    rows = [{"text": text, "logprobs": [-1.0]} for text in ("one", "two", "two more")]
    write_table(path, to_table(PERPLEXITY, rows), PERPLEXITY)
    assert holds(path, TWO)
    assert write_without(path, TWO, tmp_path / "out.parquet") == 1
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == ["one", "two more"]
    assert not holds(tmp_path / "out.parquet", TWO)


@pytest.mark.parametrize("change", [{"because": []}, {"commit": "0" * 64}])
def test_an_edited_tombstone(run: Run, change: dict[str, object]) -> None:
    erase(run, TWO)
    path = run.folder(0) / TOMBSTONE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(IntegrityError, match="edited or foreign tombstone"):
        read_tombstone(run.folder(0))
    assert verified(run).problems[0].kind == "malformed"


def test_a_tombstone_of_another_commit_hides_nothing(run: Run) -> None:
    erase(run, TWO)
    shutil.copy(run.folder(1) / TOMBSTONE, run.folder(0) / TOMBSTONE)
    found = verified(run)
    assert (0, "malformed") in [(p.iteration, p.kind) for p in found.problems]
    assert (0, "changed") in [(p.iteration, p.kind) for p in found.problems]


def test_digests_without_a_tombstone(run: Run) -> None:
    assert digests_since(run.folder(0), {"a": "b"}) == {"a": "b"}


def test_tables_of_an_iteration_in_the_making_go_whole(make_run: MakeRun) -> None:
    run = make_run(versioning={"enabled": False})
    (run.folder(1) / "commit.json").unlink()
    shard = run.folder(1) / "work" / "sample-1" / "shard-000000-x.parquet"
    shard.parent.mkdir(parents=True)
    shutil.copy(run.table(1, "samples"), shard)
    erase(run, TWO)
    assert not (run.folder(1) / "work").exists()
    assert not (run.folder(1) / "tables").exists()


def test_messages_that_quote_it(run: Run) -> None:
    record_event(run, "warning", message='lexicon raised on "two\nlines"', step="score", seconds=2)
    record_event(run, "warning", message="nothing of it")
    erase_messages(run, ['two\nlines"'])
    first, second = read_events(run, "warning")
    assert (first["message"], first["step"], first["seconds"]) == ("(erased)", "score", 2)
    assert second["message"] == "nothing of it"
