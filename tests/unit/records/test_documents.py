"""docs/records.md says of every table what its schema says, and its query runs."""

import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from raft_core.records.run import Run
from raft_core.records.tables import SCHEMAS, SCORED, to_table, write_table

PAGE = (Path(__file__).parents[3] / "docs" / "records.md").read_text()


def described(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, _kind(field.type) + (" or null" if field.nullable else "")) for field in schema]


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind):
        return "(" + ", ".join(f"{field.name} {_kind(field.type)}" for field in kind) + ")"
    if pa.types.is_list(kind):
        return f"list of {_kind(kind.value_type)}"
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


def test_every_table_and_column_is_described() -> None:
    section = PAGE.split("<!-- tables -->")[1].split("<!-- end of tables -->")[0]
    tables = dict(re.findall(r"### (\w+)\n(.*?)(?=\n### |\Z)", section, flags=re.DOTALL))
    assert list(tables) == list(SCHEMAS)
    for name, text in tables.items():
        assert re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", text, flags=re.MULTILINE) == described(SCHEMAS[name]), name


def test_the_query_runs(synthetic_run: Run) -> None:
    for iteration in range(3):
        samples = pq.read_table(synthetic_run.table(iteration, "samples"))
        rows = [
            {**row, "reward": float(row["k"]), "components": []}
            for row in samples.select(["sample_id", "prompt_id", "k", "source", "status", "reason"]).to_pylist()
        ]
        write_table(synthetic_run.table(iteration, "scored"), to_table(SCORED, rows), SCORED)
    match = re.search(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
    assert match is not None
    found = duckdb.sql(match[1].replace("runs/NAME", str(synthetic_run.path))).fetchall()
    assert found == [(f"{i:03d}", k, "text", float(k), "ok") for i in range(3) for k in (1, 0)]
