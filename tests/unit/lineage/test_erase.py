"""Rows that had to go are gone, the tombstone says so, and the chain still holds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raft_core.audit.verification import Verification, unordered_erasures, verify_run
from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import digest_of, file_digest, json_digest, write_json
from raft_core.forgetting.erasure import TOMBSTONE, Erased, digests_since, read_tombstone
from raft_core.forgetting.target_rows import Target, holds, parquet_files, write_without
from raft_core.promotion.ledger import FileLedger
from raft_core.records.run import Run, read_chain, read_events, record_event, verify_outputs
from raft_core.records.tables import PERPLEXITY, SELECTED, read_table, to_table, write_table
from raft_core.types import Prompt, content_id
from tasks.audit.explain import explain
from tasks.forgetting.erase import ErasedRows, erase_iteration, erase_messages, erase_run

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


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_in_a_second_erasure_is_told_and_made_up_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    erase(run, TWO)
    whole = Path.rename
    done: list[Path] = []

    def killed(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) > renames:
            raise KeyboardInterrupt
        return whole(path, target)

    text = Target(frozenset(), text="three says 0 in 1")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            erase_iteration(run, read_chain(run)[2], text, "a text", run.path, ErasedRows())
    assert {p.kind for p in verified(run).problems} == {"returned"}
    erase(run, text)
    assert verified(run).ok
    assert [pq.read_metadata(run.table(1, name)).num_rows for name in ("samples", "scored")] == [3, 3]


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
    assert done.rows == 2  # of samples and, without a text of its own, of scored
    assert list(done.tombstones) == ["first@1"]
    gone = content_id("sample", "key", 1, "three", 0)
    for name in ("samples", "scored"):
        assert gone not in pq.read_table(run.table(1, name))["sample_id"].to_pylist()
    with pytest.raises(InputError, match="has no sample"):
        explain(run, 1, gone)
    others = [(text, k) for text in ("one", "two", "three") for k in (0, 1) if (text, k) != ("three", 0)]
    for text, k in others:
        found = explain(run, 1, content_id("sample", "key", 1, text, k))
        assert [r.completion for r in found.rivals] == [f"{text} says {r.k} in 1" for r in found.rivals]


def test_a_quarantined_sample_of_a_source_goes_whole(run: Run) -> None:
    """``quarantine`` names no source."""
    erase(run, Target(frozenset(), frozenset(["policy"])))
    for name in ("samples", "scored", "quarantine"):
        assert pq.read_metadata(run.table(0, name)).num_rows == 0


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


def test_a_tombstone_hides_tables_alone(run: Run) -> None:
    """Well sealed, and of the right commit: nothing but tables ever loses rows."""
    commit, weights = read_chain(run)[-1], run.folder(1) / "policy" / "adapter_model.safetensors"
    weights.unlink()
    weights.write_bytes(b"other weights")
    forge(run, 1, "policy", Erased(commit.outputs["policy"], digest_of(weights.parent), 1))
    with pytest.raises(IntegrityError, match="foreign tombstone"):
        verify_outputs(run, commit)
    assert {p.kind for p in verified(run).problems} == {"malformed", "changed"}


def test_a_tombstone_that_the_ledger_does_not_know(run: Run, tmp_path: Path) -> None:
    """A forger can seal one: the ledger tells, also where there is none."""
    table, commit = run.table(1, "selected"), read_chain(run)[-1]
    write_table(table, read_table(table, SELECTED).slice(0, 1), SELECTED)
    forge(run, 1, "tables/selected.parquet", Erased(commit.outputs["tables/selected.parquet"], file_digest(table), 2))
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    (problem,) = unordered_erasures(run, ledger.entries())
    assert (problem.iteration, problem.kind, problem.path) == (1, "ledger", run.folder(1) / TOMBSTONE)
    tombstone = read_tombstone(run.folder(1))
    assert tombstone is not None
    ledger.append("erased", "raft-traced", {"tombstone": tombstone.digest}, time="2026-01-01T00:00:00+00:00")
    assert unordered_erasures(run, ledger.entries()) == []


def test_a_tombstone_that_names_other_bytes_than_the_commit(run: Run) -> None:
    forge(run, 0, "tables/samples.parquet", Erased("0" * 64, "1" * 64, 1))
    outputs = read_chain(run)[1].outputs
    assert digests_since(run.folder(0), outputs) == outputs


def forge(run: Run, iteration: int, name: str, erased: Erased) -> None:
    """As whoever has this code can."""
    content = {
        "format": 1,
        "commit": file_digest(run.folder(iteration) / "commit.json"),
        "outputs": {name: asdict(erased)},
        "because": ["nobody"],
    }
    write_json(run.folder(iteration) / TOMBSTONE, {**content, "content": json_digest(content)})


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
