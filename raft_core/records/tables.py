"""The tables of an iteration: Parquet with fixed schemas, the same for every modality.

Everything that cannot be recovered later is recorded at once: token ids, both kinds of log-probabilities, seed, source,
finish reason, every component's score, status and reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raft_core.errors import IntegrityError
from raft_core.files.artifacts import written_aside
from raft_core.types import Prompt, Sample

_TOKENS = pa.list_(pa.int32())
_LOGPROBS = pa.list_(pa.float32())
_COMPONENTS = pa.list_(pa.struct([("name", pa.string()), ("score", pa.float64())]))


ROW_GROUP = 1 << 17
"""Rows of a Parquet row group; it affects the bytes of a file."""
_FORMAT: Mapping[str, Any] = {"compression": "zstd", "version": "2.6", "store_schema": False}


def _schema(*fields: tuple[str, pa.DataType], nullable: Iterable[str] = ()) -> pa.Schema:
    may_be_null = set(nullable)
    return pa.schema([pa.field(name, kind, nullable=name in may_be_null) for name, kind in fields])


PROMPTS = _schema(
    ("prompt_id", pa.string()),
    ("text", pa.string()),
    ("group", pa.string()),
    ("source", pa.string()),
    ("reference", pa.string()),
    nullable=["reference"],
)
SAMPLES = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("k", pa.int32()),
    ("seed", pa.int64()),
    ("completion", pa.string()),
    ("prompt_token_ids", _TOKENS),
    ("completion_token_ids", _TOKENS),
    ("logprobs", _LOGPROBS),
    ("sampling_logprobs", _LOGPROBS),
    ("finish_reason", pa.string()),
    ("source", pa.string()),
    ("status", pa.string()),
    ("reason", pa.string()),
)
SCORED = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("k", pa.int32()),
    ("source", pa.string()),
    ("reward", pa.float64()),
    ("components", _COMPONENTS),
    ("status", pa.string()),
    ("reason", pa.string()),
    nullable=["reward"],
)
"""One row per sample. ``reward`` is the weighted sum of the components, null if the sample is quarantined."""
SELECTED = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("source", pa.string()),
    ("reward", pa.float64()),
    ("rank", pa.int32()),
    ("weight", pa.float64()),
    ("prompt", pa.string()),
    ("completion", pa.string()),
    ("prompt_token_ids", _TOKENS),
    ("completion_token_ids", _TOKENS),
    ("sampling_logprobs", _LOGPROBS),
    ("finish_reason", pa.string()),
)
"""The selected samples that the next policy is fine-tuned on, complete enough for an audit without other tables."""
QUARANTINE = _schema(
    ("sample_id", pa.string()),
    ("prompt_id", pa.string()),
    ("stage", pa.string()),
    ("check", pa.string()),
    ("reason", pa.string()),
)
VALIDATION = _schema(
    ("suite", pa.string()),
    ("check", pa.string()),
    ("level", pa.string()),
    ("passed", pa.bool_()),
    ("observed", pa.string()),
    ("expected", pa.string()),
    ("failed_rows", pa.int64()),
)
"""One row per expectation. ``level``: "row" (a failure quarantines rows) or "set" (a failure stops the run)."""
EVALUATION = _schema(
    ("prompt_id", pa.string()),
    ("group", pa.string()),
    ("prompt", pa.string()),
    ("sample_id", pa.string()),
    ("completion", pa.string()),
    ("completion_token_ids", _TOKENS),
    ("finish_reason", pa.string()),
    ("sampling_logprobs", _LOGPROBS),
    ("base_logprobs", _LOGPROBS),
    ("reward", pa.float64()),
    ("gold_reward", pa.float64()),
    ("components", _COMPONENTS),
    nullable=["reward", "gold_reward"],
)
"""One row per held-out prompt. ``sampling_logprobs`` and ``base_logprobs``: of its tokens under policy and base, λ."""
PERPLEXITY = _schema(("text", pa.string()), ("logprobs", _LOGPROBS))
"""One row per held-out text: log p (λ = 1) of every token but the first under this iteration's policy."""

SAFETY = _schema(
    ("case", pa.string()),
    ("prompt_id", pa.string()),
    ("prompt", pa.string()),
    ("sample_id", pa.string()),
    ("completion", pa.string()),
    ("finish_reason", pa.string()),
    ("passed", pa.bool_()),
    ("failed", pa.string()),
    ("components", _COMPONENTS),
)
"""One row per case and answer of a safety suite, only in promotion evidence. ``failed``: the checks that failed."""

SCHEMAS: Mapping[str, pa.Schema] = {
    "prompts": PROMPTS,
    "samples": SAMPLES,
    "scored": SCORED,
    "selected": SELECTED,
    "quarantine": QUARANTINE,
    "validation": VALIDATION,
    "evaluation": EVALUATION,
    "perplexity": PERPLEXITY,
}


def to_table(schema: pa.Schema, rows: Iterable[Prompt | Sample | Mapping[str, Any]]) -> pa.Table:
    """Rows (dataclasses or mappings) as a table of ``schema``; a key that a mapping lacks is null."""
    rows = list(rows)
    columns = [
        pa.array([r.get(f.name) if isinstance(r, Mapping) else getattr(r, f.name) for r in rows], f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write durably. Raises ValueError if the table does not fit the schema.

    The bytes depend only on the content and on pyarrow's version.
    """
    write_tables(path, [table], schema)


def write_tables(path: Path, parts: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write ``parts`` as one table, with about one row group at a time in memory.

    The bytes do not depend on how the table is divided into parts.
    """
    with written_aside(path) as aside, pq.ParquetWriter(aside, schema, **_FORMAT) as writer:
        for group in _row_groups(parts, schema):
            writer.write_table(group, row_group_size=ROW_GROUP)


def _row_groups(parts: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """``parts`` as tables of ROW_GROUP rows, each of one chunk (chunks would affect the bytes)."""
    waiting: list[pa.Table] = []
    num_rows = 0
    for part in parts:
        waiting.append(part.select(schema.names).cast(schema))
        num_rows += len(part)
        if num_rows >= ROW_GROUP:
            whole = pa.concat_tables(waiting)
            num_rows %= ROW_GROUP
            for start in range(0, len(whole) - num_rows, ROW_GROUP):
                yield whole.slice(start, ROW_GROUP).combine_chunks()
            waiting = [whole.slice(len(whole) - num_rows)]
    if num_rows:
        yield pa.concat_tables(waiting).combine_chunks()


def read_table(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a table and check it against ``schema``. Raises IntegrityError if the file is not such a table."""
    try:
        table = pq.read_table(path, columns=columns, memory_map=True)
        return table.cast(schema if columns is None else pa.schema([schema.field(c) for c in columns]))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, schema, error) from error


def read_rows(path: Path, schema: pa.Schema, rows_N: NDArray[np.int64], columns: list[str]) -> pa.Table:
    """The rows ``rows_N`` in that order, with about one row group besides them in memory.

    Raises IntegrityError if the file is not such a table, IndexError for a row that it does not have.
    """
    order_N = np.argsort(rows_N, kind="stable")
    sorted_N, start, parts = rows_N[order_N], 0, list[pa.Table]()
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                here = sorted_N[np.searchsorted(sorted_N, start) : np.searchsorted(sorted_N, end)] - start
                if len(here):
                    parts.append(file.read_row_group(group, columns).take(pa.array(here)))
                start = end
        found = pa.concat_tables(parts) if parts else schema.empty_table().select(columns)
        found = found.select(columns).cast(pa.schema([schema.field(c) for c in columns]))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, schema, error) from error
    if len(found) != len(rows_N):
        raise IndexError(f"{path} has {start} rows, but row {sorted_N[-1]} was requested")
    return found.take(pa.array(np.argsort(order_N)))


def _unreadable(path: Path, schema: pa.Schema, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"unreadable table: {path}",
        got=error,
        expected=f"a Parquet file with columns {', '.join(schema.names)}",
        hint="restore it from DVC (dvc checkout, dvc pull) or from a backup",
    )


def to_prompts(table: pa.Table) -> list[Prompt]:
    """The rows of a PROMPTS table as prompts."""
    return [Prompt(**row) for row in table.to_pylist()]
