"""Tables: the same bytes for the same content, and clear errors for what is no such table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raft_core.errors import IntegrityError
from raft_core.files.artifacts import file_digest
from raft_core.records import tables
from raft_core.records.tables import (
    PROMPTS,
    QUARANTINE,
    SAMPLES,
    SCHEMAS,
    SCORED,
    read_rows,
    read_table,
    to_prompts,
    to_table,
    write_table,
    write_tables,
)
from raft_core.types import Prompt, Sample

PROMPT_ROWS = [Prompt.of("one", group="g"), Prompt.of("two", reference="2")]


def scored(num: int) -> pa.Table:
    return to_table(
        SCORED,
        [
            {
                "sample_id": f"{i:032d}",
                "prompt_id": str(i // 4),
                "k": i % 4,
                "source": "policy",
                "reward": None if i % 7 == 0 else i / 3,
                "components": [{"name": "a", "score": float(i)}] * (i % 3),
                "status": "ok",
                "reason": "",
            }
            for i in range(num)
        ],
    )


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    write_table(tmp_path / "p.parquet", to_table(PROMPTS, PROMPT_ROWS), PROMPTS)
    assert to_prompts(read_table(tmp_path / "p.parquet", PROMPTS)) == PROMPT_ROWS


def test_samples_keep_every_token_and_log_probability(tmp_path: Path) -> None:
    sample = Sample("s", "p", 1, 2**40, "é", (1, 2), (3, 4, 5), (-0.5, -0.25, 0.0), (-1.0, -2.0, -3.0), "length")
    write_table(tmp_path / "s.parquet", to_table(SAMPLES, [sample]), SAMPLES)
    (row,) = read_table(tmp_path / "s.parquet", SAMPLES).to_pylist()
    lists = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
    assert Sample(**lists) == sample


def test_a_subset_of_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "t", scored(5), SCORED)
    assert read_table(tmp_path / "t", SCORED, ["reward", "k"]).column_names == ["reward", "k"]


@pytest.mark.parametrize("rows_in_group", [1 << 17, 100, 7])
def test_the_bytes_do_not_show_how_a_table_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_in_group: int
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", rows_in_group)
    whole = scored(1000)
    cut = [whole.slice(start, 33) for start in range(0, 1000, 33)]
    write_table(tmp_path / "whole", whole, SCORED)
    write_table(tmp_path / "chunks", pa.concat_tables(cut), SCORED)
    write_tables(tmp_path / "parts", cut, SCORED)
    write_tables(tmp_path / "halves", [whole.slice(0, 500), whole.slice(500), whole.slice(0, 0)], SCORED)
    assert len({file_digest(tmp_path / name) for name in ("whole", "chunks", "parts", "halves")}) == 1
    assert read_table(tmp_path / "parts", SCORED).equals(whole)
    assert pq.ParquetFile(tmp_path / "whole").metadata.num_row_groups == -(-1000 // rows_in_group)


@pytest.mark.parametrize("rows", [[], [0], [999, 0, 500], [7, 6, 5, 6], list(range(999, -1, -3))])
def test_rows_in_any_order_from_many_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int]
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", 100)
    whole, columns = scored(1000), ["reward", "sample_id", "components"]
    write_table(tmp_path / "t", whole, SCORED)
    found = read_rows(tmp_path / "t", SCORED, np.array(rows, np.int64), columns)
    assert found.equals(whole.select(columns).take(pa.array(rows, pa.int64())))


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    write_table(tmp_path / "t", scored(3), SCORED)
    with pytest.raises(IndexError, match=r"has 3 rows.* row 3"):
        read_rows(tmp_path / "t", SCORED, np.array([1, 3]), ["reward"])
    (tmp_path / "t").write_bytes(b"no table")
    with pytest.raises(IntegrityError, match="unreadable table"):
        read_rows(tmp_path / "t", SCORED, np.array([1]), ["reward"])


def test_nor_do_pages_show_its_chunks(tmp_path: Path) -> None:
    """Large enough for a column's dictionary to overflow in the middle of a chunk."""
    names = [f"{i:032d}" for i in range(40_000)]
    whole = to_table(
        QUARANTINE, [{"sample_id": n, "prompt_id": n, "stage": "", "check": "", "reason": n} for n in names]
    )
    write_table(tmp_path / "whole", whole, QUARANTINE)
    chunks = [whole.slice(start, 777) for start in range(0, 40_000, 777)]
    write_table(tmp_path / "chunks", pa.concat_tables(chunks), QUARANTINE)
    assert file_digest(tmp_path / "whole") == file_digest(tmp_path / "chunks")


def test_columns_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    table = scored(10)
    write_table(tmp_path / "a", table, SCORED)
    write_table(tmp_path / "b", table.select(table.column_names[::-1]), SCORED)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_an_empty_table(tmp_path: Path, schema: pa.Schema) -> None:
    write_table(tmp_path / "t", to_table(schema, []), schema)
    assert read_table(tmp_path / "t", schema).num_rows == 0


@pytest.mark.parametrize(
    "row",
    [
        {"sample_id": None, "prompt_id": "p", "stage": "s", "check": "c", "reason": "r"},
        {"sample_id": "s", "prompt_id": "p", "stage": "s", "check": "c"},
    ],
)
def test_a_missing_value_is_refused_where_there_must_be_one(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="non-nullable"):
        write_table(tmp_path / "t", to_table(QUARANTINE, [row]), QUARANTINE)
    assert not (tmp_path / "t").exists()


def test_a_reward_may_be_missing(tmp_path: Path) -> None:
    write_table(tmp_path / "t", scored(1), SCORED)
    assert read_table(tmp_path / "t", SCORED)["reward"].to_pylist() == [None]


def test_a_failure_between_parts_leaves_the_old_table(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_table(path, scored(3), SCORED)

    def parts() -> Iterator[pa.Table]:
        yield scored(5)
        raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        write_tables(path, parts(), SCORED)
    assert read_table(path, SCORED).num_rows == 3
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_such_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, scored(100), SCORED)
    whole = path.read_bytes()
    for content in (b"", b"no table", whole[: len(whole) // 2], whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(IntegrityError, match="unreadable table"):
            read_table(path, SCORED)
    with pytest.raises(IntegrityError, match="unreadable table"):
        read_table(tmp_path / "none.parquet", SCORED)
    write_table(path, to_table(PROMPTS, PROMPT_ROWS), PROMPTS)
    with pytest.raises(IntegrityError, match="unreadable table"):
        read_table(path, SCORED)
