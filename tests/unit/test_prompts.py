"""Prompts: every bad file once, and what splits and draws promise."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_core.config.prompts import PromptsConfig
from raft_core.errors import InputError
from raft_core.files import parquet_trial
from raft_core.prompts import files as prompt_files
from raft_core.prompts.splits import Splits, draw, load_prompts, split_prompts
from raft_core.types import Prompt

POOL = [Prompt.of(f"prompt {i}") for i in range(40)]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        read()
    return str(caught.value)


# -- reading -----------------------------------------------------------------------------------


def test_plain_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "A film about \r\nwide é\n last without a break ")
    assert [p.text for p in load_prompts(path)] == ["A film about ", "wide é", " last without a break "]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path / "p.txt", b"\xef\xbb\xbfone\ntwo\n"))[0] == Prompt.of("one")


def test_json_lines_with_their_columns(tmp_path: Path) -> None:
    rows = [
        {"q": "1 + 1 = ", "group": "sums", "source": "book", "reference": "2", "other": 5},
        {"q": "2 + 2 = ", "group": None},
    ]
    path = write(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert load_prompts(path, "q") == [
        Prompt.of("1 + 1 = ", group="sums", source="book", reference="2"),
        Prompt.of("2 + 2 = "),
    ]


def test_parquet_gives_the_same_as_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "a", "group": "g", "reference": None}, {"text": "b", "group": "h", "reference": "r"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    write(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert load_prompts(tmp_path / "p.parquet") == load_prompts(tmp_path / "p.jsonl")


def test_the_same_text_with_another_reference_is_another_prompt_id() -> None:
    assert Prompt.of("x", reference="1").prompt_id != Prompt.of("x", reference="2").prompt_id
    assert Prompt.of("x", group="g").prompt_id == Prompt.of("x").prompt_id


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.txt", b"", "one prompt per line"),
        ("p.txt", b"good\nb\xffd\n", "line 2 is not UTF-8 text\n  got: byte 0xff at position 1"),
        ("p.txt", "UTF-16".encode("utf-16"), "line 1 is not UTF-8"),
        ("p.txt", b"one\n\ntwo\n", "line 2: the prompt is empty"),
        ("p.txt", b"one\n \t\n", "line 2: the prompt is empty"),
        ("p.txt", b"one\ntwo\nthree\ntwo\n", "lines 2 and 4 are the same prompt 'two'"),
        ("p.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not valid JSON"),
        ("p.jsonl", b'{"text": "a"}\n\n', "line 2 is not valid JSON"),
        ("p.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("p.jsonl", b'["text"]\n', "line 1 is not a JSON object"),
        ("p.jsonl", b'{"prompt": "a", "id": 3}\n', "line 1 has no column 'text'\n  got: columns prompt, id"),
        ("p.jsonl", b'{"text": null}\n', "line 1: text is not a text\n  got: None"),
        ("p.jsonl", b'{"text": 5}\n', "line 1: text is not a text\n  got: 5"),
        ("p.jsonl", b'{"text": "a", "reference": 4}\n', "line 1: reference is not a text\n  got: 4"),
        ("p.jsonl", b'{"text": ""}\n', "line 1: the prompt is empty"),
        ("p.jsonl", b'{"text": "\\ud800"}\n', "surrogates not allowed"),
        ("p.parquet", b"PAR1 but no more", "Parquet file"),
        ("p.csv", b"question\na\n", "no column 'text'"),
        ("prompts", b"a\n", "suffix (none)"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = write(tmp_path / name, content)
    message = refusal(lambda: load_prompts(path))
    assert str(path) in message
    assert told in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert str(tmp_path / "none.txt") in refusal(lambda: load_prompts(tmp_path / "none.txt"))
    (tmp_path / "folder.txt").mkdir()
    assert "is a folder" in refusal(lambda: load_prompts(tmp_path / "folder.txt"))


def test_parquet_without_the_column_or_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "p.parquet")
    assert "no column 'text'\n  got: columns prompt" in refusal(lambda: load_prompts(tmp_path / "p.parquet"))
    bad = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"b", b"\xff"]).buffers())
    pq.write_table(pa.table({"text": bad}), tmp_path / "q.parquet")
    assert "row 3 is not UTF-8" in refusal(lambda: load_prompts(tmp_path / "q.parquet"))
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "r.parquet")
    assert "line 1: text is not a text" in refusal(lambda: load_prompts(tmp_path / "r.parquet"))


def test_an_endless_line_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_files, "MAX_LINE_BYTES", 10)
    assert "line 2 is too long" in refusal(lambda: load_prompts(write(tmp_path / "p.txt", "short\n" + "x" * 11)))
    assert len(load_prompts(write(tmp_path / "q.txt", "short\n" + "x" * 9))) == 2


@given(st.binary(max_size=80), st.sampled_from([".txt", ".jsonl", ".parquet", ".csv", ".txt.gz"]))
def test_whatever_the_bytes_it_is_prompts_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = write(tmp_path_factory.mktemp("any") / f"p{suffix}", content)
    message, prompts = "", ()
    try:
        prompts = load_prompts(path)
    except InputError as error:
        message = str(error)
    assert (str(path) in message) == (not prompts)
    assert all(prompt.text.strip() for prompt in prompts)


# -- splits ------------------------------------------------------------------------------------


def split(tmp_path: Path, train: list[str], held_out: list[str] | None = None, seed: int = 0, **facts: Any) -> Splits:
    write(tmp_path / "train.txt", "\n".join(train))
    if held_out is not None:
        write(tmp_path / "held_out.txt", "\n".join(held_out))
        facts["held_out"] = "held_out.txt"
    if isinstance(promotion := facts.get("promotion"), list):
        write(tmp_path / "promotion.txt", "\n".join(promotion))
        facts["promotion"] = "promotion.txt"
    return split_prompts(PromptsConfig(train="train.txt", **facts), seed, lambda reference: tmp_path / reference)


TEXTS = [f"text {i}" for i in range(100)]


def test_shares_are_set_apart_and_disjoint(tmp_path: Path) -> None:
    splits = split(tmp_path, TEXTS, held_out_share=0.2, promotion_share=0.1)
    parts = [{p.text for p in part} for part in (splits.train, splits.held_out, splits.promotion)]
    assert [len(part) for part in parts] == [70, 20, 10]
    assert set.union(*parts) == set(TEXTS)
    assert [p.text for p in splits.train] == [t for t in TEXTS if t in parts[0]]


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_file(tmp_path: Path) -> None:
    first, again, other = (split(tmp_path, TEXTS, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert set(first.held_out) != set(other.held_out)
    turned = split(tmp_path, TEXTS[::-1], seed=1)
    assert set(turned.held_out) == set(first.held_out)


def test_held_out_beyond_the_maximum_is_not_trained_on(tmp_path: Path) -> None:
    splits = split(tmp_path, TEXTS, held_out_share=0.5, max_held_out=7)
    assert (len(splits.train), len(splits.held_out)) == (50, 7)
    wide = split(tmp_path, TEXTS, held_out_share=0.5)
    assert splits.train == wide.train
    assert set(splits.held_out) < set(wide.held_out)


def test_a_held_out_file(tmp_path: Path) -> None:
    splits = split(tmp_path, TEXTS, ["other 1", "other 2"])
    assert [p.text for p in splits.train] == TEXTS
    assert [p.text for p in splits.held_out] == ["other 1", "other 2"]
    assert splits.promotion == ()


def test_a_promotion_file_is_read_whole_and_nothing_else_is_set_apart(tmp_path: Path) -> None:
    splits = split(tmp_path, TEXTS, held_out_share=0.2, promotion=["other 1", "other 2"])
    assert [p.text for p in splits.promotion] == ["other 1", "other 2"]
    assert (len(splits.train), len(splits.held_out)) == (80, 20)


def test_a_promotion_prompt_of_another_split_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: split(tmp_path, TEXTS, ["other"], promotion=[TEXTS[3], "new"]))
    assert "1 of 2 promotion prompts in promotion.txt are also training prompts" in message
    message = refusal(lambda: split(tmp_path, TEXTS, ["other"], promotion=["other", "new"]))
    assert "1 of 2 promotion prompts in promotion.txt are also held-out prompts" in message


def test_a_promotion_file_and_a_share_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="promotion and promotion_share"):
        PromptsConfig(train="t", promotion="p", promotion_share=0.1)


def test_held_out_prompts_inside_the_training_prompts(tmp_path: Path) -> None:
    message = refusal(lambda: split(tmp_path, TEXTS, ["other", *TEXTS[3:8]]))
    assert "5 of 6 held-out prompts in held_out.txt are also training prompts" in message
    assert "'text 3', 'text 4', 'text 5', 'text 6', 'text 7'" in message


def test_a_split_that_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    assert "no training prompts are left" in refusal(lambda: split(tmp_path, ["one"]))
    assert "no training prompts are left" in refusal(lambda: split(tmp_path, TEXTS, held_out_share=1.0))
    message = refusal(lambda: split(tmp_path, TEXTS, ["other"], promotion_share=1.0))
    assert "0 are held out and 100 are for promotion" in message


def test_a_small_share_is_at_least_one_prompt(tmp_path: Path) -> None:
    splits = split(tmp_path, ["a", "b", "c"], held_out_share=0.01, promotion_share=0.01)
    assert (len(splits.train), len(splits.held_out), len(splits.promotion)) == (1, 1, 1)


# -- drawing -----------------------------------------------------------------------------------


@given(count=st.integers(1, 40), seed=st.integers(0, 2**31 - 1), size=st.integers(1, 40))
def test_no_prompt_twice_in_a_draw_nor_again_before_all_were_drawn(count: int, seed: int, size: int) -> None:
    pool = POOL[: max(size, count)]
    drawn: list[Prompt] = []
    for iteration in range(6):
        batch = draw(pool, count, seed=seed, iteration=iteration)
        assert len(set(batch)) == count
        drawn += batch
        counts = Counter(drawn)
        assert max(counts.values()) - min(counts[p] for p in pool) <= 1


def test_a_draw_depends_on_seed_and_iteration_alone() -> None:
    assert draw(POOL, 8, seed=3, iteration=2) == draw(POOL[::-1], 8, seed=3, iteration=2)
    assert draw(POOL, 8, seed=3, iteration=2) != draw(POOL, 8, seed=4, iteration=2)
    assert not set(draw(POOL, 8, seed=3, iteration=2)) & set(draw(POOL, 8, seed=3, iteration=3))


def test_a_draw_is_the_same_on_every_machine() -> None:
    texts = [p.text for p in draw(POOL, 4, seed=0, iteration=0)]
    assert texts == ["prompt 19", "prompt 27", "prompt 18", "prompt 35"]


def test_more_prompts_than_the_pool_holds() -> None:
    message = refusal(lambda: draw(POOL, 41, seed=0, iteration=0))
    assert "got: 40 training prompts\n  expected: at least 41" in message
    assert "sampling.prompts_per_iteration" in message


def refused_parquet(path: Path, table: pa.Table, **options: Any) -> str:
    pq.write_table(table, path, **options)
    return refusal(lambda: load_prompts(path))


@pytest.mark.full
def test_hostile_parquet_ends_in_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = {
        "a list": pa.array([["a"]]),
        "a struct": pa.array([{"a": "b"}]),
        "a map": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())),
    }
    for name, column in nested.items():
        assert f"{name}.parquet" in refused_parquet(tmp_path / f"{name}.parquet", pa.table({"text": column}))
    for name, column in {"numbers": pa.array([1]), "bytes": pa.array([b"a"]), "nothing": pa.nulls(1)}.items():
        assert "is not a text" in refused_parquet(tmp_path / f"{name}.parquet", pa.table({"text": column}))
    path = tmp_path / "repeated.parquet"  # a million rows of a long text in a few kilobytes
    text = pa.DictionaryArray.from_arrays(pa.array(bytes(1_000_000), pa.int8()), ["x" * 100_000])
    assert "lines 1 and 2 are the same prompt" in refused_parquet(path, pa.table({"text": text}))
    assert path.stat().st_size < 1_000_000
    child = tmp_path / "trial.py"
    child.write_text(Path(parquet_trial.__file__).read_text().replace("GROUP_BYTES = 1 << 30", "GROUP_BYTES = 1 << 20"))
    monkeypatch.setattr(parquet_trial, "__file__", str(child))
    bomb = pa.table({"text": ["y" * (1 << 21)]})
    assert "row group 0" in refused_parquet(tmp_path / "bomb.parquet", bomb, compression="zstd")


@pytest.mark.full
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_parquet_file_with_flipped_bytes_ends_in_an_answer(position: int, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.parquet"
        pq.write_table(pa.table({"text": [f"prompt {i}" for i in range(20)], "group": ["g"] * 20}), path)
        data = bytearray(path.read_bytes())
        data[position % len(data)] ^= flip
        path.write_bytes(bytes(data))
        with suppress(InputError):
            assert load_prompts(path)


def test_all_repeated_prompts_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "".join(f"prompt {i % 10}\n" for i in range(18)))
    message = refusal(lambda: load_prompts(path))
    assert "8 lines repeat the prompt of an earlier line" in message
    for i in range(5):
        assert f"lines {i + 1} and {i + 11} are the same prompt 'prompt {i}'" in message
    assert "'prompt 5'" not in message
    assert "; and 3 more" in message
