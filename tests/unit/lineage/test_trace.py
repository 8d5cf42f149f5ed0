"""What a prompt, a sample, a source or a text touched, with every count known by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

import duckdb
import pytest
from filelock import unlock_descriptor

from raft_core.audit import index as index_module
from raft_core.audit.index import FOLDER, drop_index, open_index
from raft_core.audit.trace import By, Trace, find
from raft_core.errors import InputError
from raft_core.files.artifacts import write_bytes
from raft_core.files.locks import share_open_file
from raft_core.records.run import Run, read_chain
from raft_core.types import Prompt, content_id

MakeRun = Callable[..., Run]


def ask(run: Run, by: By, value: str) -> Trace:
    with open_index(run.path.parent) as index:
        return find(index, by, value)


def touched(trace: Trace) -> list[tuple[str, int, int, int, int]]:
    return [(i.run, i.iteration, i.prompts, i.samples, i.selected) for i in trace.iterations]


def test_a_prompt_and_its_samples(make_run: MakeRun) -> None:
    run = make_run()
    two = Prompt.of("two", source="films").prompt_id
    trace = ask(run, "prompt", two)
    assert dict(trace.prompts) == {two: "two"}
    assert touched(trace) == [("first", 0, 1, 2, 1), ("first", 1, 1, 2, 1)]
    seen = [(use.iteration, use.k, use.reward, use.status, use.rank) for use in trace.uses]
    assert seen == [
        (0, 0, 1.0, "ok", 1),
        (0, 1, None, "quarantined", None),
        (1, 1, 1.5, "ok", 1),
        (1, 0, 1.0, "ok", None),
    ]
    assert [use.completion for use in trace.uses] == ["two says 0 in 0", None, "two says 1 in 1", None]
    assert [(m.iteration, m.through) for m in trace.models] == [(0, None), (1, None)]
    assert touched(ask(run, "prompt", two[:8])) == touched(trace)


def test_a_sample(make_run: MakeRun) -> None:
    run = make_run()
    dropped = content_id("sample", "key", 0, "one", 0)
    trace = ask(run, "sample", dropped)
    assert touched(trace) == [("first", 0, 1, 1, 0)]
    assert trace.models == ()
    chosen = ask(run, "sample", content_id("sample", "key", 0, "one", 1))
    assert [(m.run, m.iteration, m.through) for m in chosen.models] == [("first", 0, None), ("first", 1, "first@0")]


def test_a_source_and_a_text(make_run: MakeRun) -> None:
    run = make_run()
    assert touched(ask(run, "source", "films")) == [("first", 0, 2, 4, 2), ("first", 1, 2, 4, 2)]
    assert touched(ask(run, "source", "nowhere")) == []
    assert touched(ask(run, "text", "hre")) == [("first", 0, 1, 2, 1), ("first", 1, 1, 2, 1)]
    said = ask(run, "text", "one says 1 in 0")
    assert touched(said) == [("first", 0, 1, 1, 1)]
    assert said.uses[0].completion == "one says 1 in 0"
    assert touched(ask(run, "text", "100 %_'")) == []


def test_held_out_prompts_train_nothing(make_run: MakeRun) -> None:
    trace = ask(make_run(), "text", "held")
    assert touched(trace) == [("first", -1, 1, 0, 0)]
    assert trace.models == ()


def test_models_descend_across_runs(make_run: MakeRun) -> None:
    first = make_run("first", texts=[["one"], ["two"]])
    last = read_chain(first)[-1].outputs["policy"]
    make_run("second", key="other", texts=[["three"], ["three"]], base=last)
    make_run("apart", key="apart", texts=[["three"], ["three"]], base="e" * 64)
    models = ask(first, "prompt", Prompt.of("two").prompt_id).models
    assert [(m.run, m.iteration, m.through) for m in models] == [
        ("first", 1, None),
        ("second", -1, "first@1"),
        ("second", 0, "first@1"),
        ("second", 1, "first@1"),
    ]


def test_what_cannot_be_asked(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(InputError, match="empty"):
        ask(run, "text", "")
    make_run("other", texts=[["a"], ["b"]])
    ids = sorted(Prompt.of(f"{n}").prompt_id for n in range(400))
    assert touched(ask(run, "prompt", ids[0][:7])) == []


def test_the_index_follows_the_runs(make_run: MakeRun) -> None:
    run = make_run("first", iterations=1)
    runs = run.path.parent
    assert len(ask(run, "source", "films").iterations) == 1
    written = (runs / FOLDER / "lineage.duckdb").stat().st_mtime_ns
    assert len(ask(run, "source", "films").iterations) == 1
    assert (runs / FOLDER / "lineage.duckdb").stat().st_mtime_ns == written
    make_run("second", key="b")
    assert [i.run for i in ask(run, "source", "films").iterations] == ["first", "second", "second"]
    shutil.rmtree(runs / "second")
    assert [i.run for i in ask(run, "source", "films").iterations] == ["first"]
    drop_index(runs)
    assert [i.run for i in ask(run, "source", "films").iterations] == ["first"]


def test_a_prompt_whose_commit_is_gone_is_no_longer_in_the_index(make_run: MakeRun) -> None:
    run = make_run("first")
    make_run("second", key="b", texts=[["a secret"], ["a secret"]])
    with open_index(run.path.parent) as index:
        assert index.rows("SELECT text FROM prompts WHERE text = 'a secret'")
    shutil.rmtree(run.path.with_name("second"))
    with open_index(run.path.parent) as index:
        assert sorted(index.rows("SELECT text FROM prompts")) == [("held out",), ("one",), ("three",), ("two",)]


def test_an_index_that_is_dropped_between_writing_and_reading(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    dropped = list[str]()

    def share(file: IO[str]) -> None:
        if not dropped:
            dropped.append(file.name)
            unlock_descriptor(file.fileno())
            drop_index(run.path.parent)
        share_open_file(file)

    monkeypatch.setattr(index_module, "share_open_file", share)
    assert touched(ask(run, "source", "films")) == [("first", 0, 2, 4, 2), ("first", 1, 2, 4, 2)]
    assert dropped


@pytest.mark.parametrize("spoil", ["bytes", "format"])
def test_an_index_that_does_not_match_is_made_anew(make_run: MakeRun, spoil: str) -> None:
    run = make_run()
    expected = ask(run, "source", "films")
    path = run.path.parent / FOLDER / "lineage.duckdb"
    if spoil == "bytes":
        path.write_bytes(b"no database")
    else:
        with duckdb.connect(str(path)) as connection:
            connection.execute("UPDATE about SET format = 'old'; DELETE FROM samples")
    assert ask(run, "source", "films") == expected


def test_tables_with_other_bytes_are_not_believed(make_run: MakeRun, corrupt: Callable[[Path], None]) -> None:
    run = make_run()
    table = run.table(0, "scored")
    sound = table.read_bytes()
    corrupt(table)
    trace = ask(run, "source", "films")
    assert [i.iteration for i in trace.iterations] == [1]
    assert trace.unseen == ("first@0",)
    write_bytes(table, sound)
    trace = ask(run, "source", "films")
    assert [i.iteration for i in trace.iterations] == [0, 1]
    assert trace.unseen == ()


def test_a_clone_without_tables_says_so(make_run: MakeRun) -> None:
    run = make_run()
    shutil.rmtree(run.folder(1) / "tables")
    trace = ask(run, "source", "films")
    assert trace.unseen == ("first@1",)
    assert [(m.iteration, m.through) for m in trace.models] == [(0, None), (1, "first@0")]


def test_where_nothing_can_be_written_memory_serves(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        assert len(ask(run, "source", "films").iterations) == 2
    assert not (run.path.parent / FOLDER).exists()


def test_it_is_plain_data(make_run: MakeRun) -> None:
    from dataclasses import asdict

    assert json.loads(json.dumps(asdict(ask(make_run(), "source", "films"))))["num_prompts"] == 2
