"""The line that a step leaves in the log names counts that can be checked by hand."""

from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raft_core.records.tables import QUARANTINE, SAMPLES, VALIDATION, to_table
from tasks.loop import summary
from tasks.validation.quarantine import TableCheck


def test_sampled(tmp_path: Any) -> None:
    ids = pa.array([[1] * length for length in (1, 2, 3, 4, 5, 9)], SAMPLES.field("completion_token_ids").type)
    pq.write_table(pa.table({"completion_token_ids": ids}), tmp_path / "samples.parquet")
    config = SimpleNamespace(sampling=SimpleNamespace(samples_per_prompt=3))
    it = cast(Any, SimpleNamespace(table=lambda name: tmp_path / f"{name}.parquet", config=config))
    assert summary.sampled(it) == "sampled 6 completions of 2 prompts (3 each), mean length 4 tokens"


def test_validated() -> None:
    row = {"suite": "samples", "level": "row", "observed": "", "expected": "", "failed_rows": 0}
    checks = to_table(VALIDATION, [{**row, "check": "a", "passed": True}, {**row, "check": "b", "passed": False}])
    line = summary.validated(TableCheck("samples", checks, QUARANTINE.empty_table(), ()))
    assert "samples" in line
    assert "2 checks, 1 failed" in line
    assert "0 entries" in line


def test_evaluated() -> None:
    line = summary.evaluated({"reward": 0.123456, "reward_low": 0.1, "reward_high": 0.2, "perplexity": None})
    assert "0.1235 (0.1 to 0.2)" in line
    assert line.endswith("perplexity -")
