"""Find the rows of a table that must be erased, and write the table without them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raft_core.errors import IntegrityError
from raft_core.records.tables import SCHEMAS, read_table, write_table
from raft_core.types import Prompt

TEXTS = ("text", "prompt", "completion", "reference", "reason", "observed")
"""Columns that can contain a text to forget."""
_ASKED = ("prompt_id", "source", *TEXTS)


@dataclass(frozen=True, slots=True)
class Target:
    """What to erase: rows of these prompts, sources and samples, and rows that contain ``text``."""

    prompts: frozenset[str]
    sources: frozenset[str] = frozenset()
    text: str | None = None
    samples: frozenset[str] = frozenset()


def rows_to_erase(table: pa.Table, target: Target) -> pa.ChunkedArray:
    """One boolean per row of ``table``, which may lack any of the columns that are compared."""
    found: pa.ChunkedArray | None = None
    for name in table.column_names:
        mask = _mask(name, table[name], target)
        if mask is not None:
            mask = pc.fill_null(mask, False)
            found = mask if found is None else pc.or_(found, mask)
    if "text" in table.column_names and "prompt_id" not in table.column_names and target.prompts:
        named = pa.chunked_array([pa.array([_named(text, target) for text in table["text"].to_pylist()], pa.bool_())])
        found = named if found is None else pc.or_(found, named)
    return found if found is not None else pa.chunked_array([pa.array([False] * len(table), pa.bool_())])


def _named(text: object, target: Target) -> bool:
    """Whether a prompt with this text is in ``target``: the perplexity table has texts but no ids."""
    return isinstance(text, str) and Prompt.of(text).prompt_id in target.prompts


def _mask(name: str, column: pa.ChunkedArray, target: Target) -> pa.ChunkedArray | None:
    if name == "prompt_id" and target.prompts:
        return pc.is_in(column, value_set=pa.array(sorted(target.prompts), pa.string()))
    if name == "source" and target.sources:
        return pc.is_in(column, value_set=pa.array(sorted(target.sources), pa.string()))
    if name == "sample_id" and target.samples:
        return pc.is_in(column, value_set=pa.array(sorted(target.samples), pa.string()))
    if name in TEXTS and target.text is not None and pa.types.is_string(column.type):
        return pc.match_substring(column, target.text)
    return None


def matching_prompts(path: Path, target: Target) -> dict[str, str]:
    """Id → text of the prompts of a ``prompts`` table that must be erased."""
    table = read_table(path, SCHEMAS["prompts"])
    rows = table.filter(rows_to_erase(table, target)).select(["prompt_id", "text"]).to_pylist()
    return {row["prompt_id"]: row["text"] for row in rows}


def matching_samples(path: Path, target: Target) -> set[str]:
    """Ids of the samples in a table of ``SCHEMAS`` that must be erased."""
    schema = SCHEMAS[path.stem]
    if "sample_id" not in schema.names:
        return set()
    table = read_table(path, schema, [name for name in ("sample_id", *_ASKED) if name in schema.names])
    return set(table.filter(rows_to_erase(table, target))["sample_id"].to_pylist())


def holds(path: Path, target: Target) -> bool:
    """Whether a Parquet file of any name has a row to erase; False if it cannot be read as a table."""
    try:
        with pa.memory_map(str(path)) as file:
            return stream_holds(file, target)
    except (pa.ArrowException, OSError, ValueError):
        return False


def stream_holds(file: Any, target: Target) -> bool:
    """``holds`` for an open file. Raises ArrowException if it is not Parquet, and OSError."""
    parquet = pq.ParquetFile(file)
    names = set(parquet.schema_arrow.names)
    wanted = [name for name in _ASKED if name in names]
    return bool(wanted and pc.any(rows_to_erase(parquet.read(columns=wanted), target)).as_py())


def write_without(path: Path, target: Target, out: Path) -> int:
    """Write the table at ``path`` (named as in ``SCHEMAS``) to ``out`` without the rows to erase; returns their number.

    Nothing is written if there are none. Raises IntegrityError for a table that cannot be read.
    """
    schema = SCHEMAS.get(path.stem)
    if schema is None:
        raise IntegrityError(
            f"{path} is not a table of an iteration", expected=f"one of {', '.join(SCHEMAS)}", hint="remove it"
        )
    table = read_table(path, schema)
    erased = rows_to_erase(table, target)
    num_erased = int(pc.sum(erased).as_py() or 0)
    if num_erased:
        write_table(out, table.filter(pc.invert(erased)), schema)
    return num_erased


def parquet_files(folders: Iterable[Path]) -> list[Path]:
    """Every Parquet file below ``folders``."""
    return sorted(path for folder in folders if folder.is_dir() for path in folder.rglob("*.parquet"))
