"""Erase prompts in Prefect's database: earlier versions of RAFT passed them to flows, and Prefect keeps parameters.

In a local database (sqlite) parameters and messages are emptied in place and the freed bytes overwritten. On a server
the API can only empty parameters; the rest of its database is left to its owner (``follow_up.NOT_ERASED``).
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from raft_core.forgetting.target_rows import Target
from raft_core.redaction import redacted_text
from tasks.forgetting.erase import MOST_TEXTS, ErasedRows

PAGE = 20
"""Flow runs per request: each can have half a megabyte of parameters."""
TEXT = {
    "flow_run": ("parameters",),
    "flow_run_state": ("message", "data"),
    "task_run_state": ("message", "data"),
    "log": ("message",),
    "events": ("payload", "resource"),
    "event_resources": ("resource",),
    "artifact": ("description", "data"),
    "artifact_collection": ("description", "data"),
}
"""Table → columns that can hold text of a prompt. Other columns hold ids, names and times, also of other projects."""
FEWEST_CHARS = 8
"""Shorter texts are not searched for: they would match inside unrelated ids and words."""


def erase_in_prefect(target: Target, texts: Sequence[str], done: ErasedRows) -> None:
    """Empty the parameters of every flow run in Prefect that was passed a prompt of ``target``.

    ``texts`` of those prompts are also searched for in messages. What could not be reached is added to ``done``.
    """
    from prefect.settings import PREFECT_API_URL

    database = _database()
    kind, _, where = database.partition(":///")
    if kind.startswith("sqlite"):
        path = Path(where.partition("?")[0])
        if path.is_file():
            _erase_in_file(path, target, texts, done)
    elif database:
        where = redacted_text(database)
        done.left.append(f"{where}: parameters of Prefect's flow runs may hold it; empty them, or set PREFECT_API_URL")
    if url := PREFECT_API_URL.value():
        _erase_on_server(redacted_text(url), target, done)


def _database() -> str:
    """URL of the database of a server started on this machine; it may hold a password."""
    from prefect.settings import get_current_settings

    configured = get_current_settings().server.database.connection_url
    return "" if configured is None else configured.get_secret_value()


def holds_prompt(parameters: Any, target: Target) -> bool:
    """Whether the parameters of a flow run contain a prompt of ``target``."""
    return any(
        _is_one(prompt["prompt_id"], target.prompts)
        or _is_one(prompt.get("source"), target.sources)
        or (target.text is not None and target.text in str(prompt.get("text")))
        for prompt in _prompts_in(parameters)
    )


def _is_one(value: Any, of: Collection[str]) -> bool:
    return isinstance(value, str) and value in of


def _prompts_in(parameters: Any) -> Iterator[dict[str, Any]]:
    waiting = [parameters]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "prompt_id" in value:
                yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _erase_in_file(path: Path, target: Target, texts: Sequence[str], done: ErasedRows) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=30)) as database, database:
            database.execute("PRAGMA secure_delete = ON")
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "flow_run" not in tables:
                return
            rows = database.execute("SELECT id, parameters FROM flow_run WHERE instr(parameters, 'prompt_id') > 0")
            found = [(key,) for key, parameters in rows if holds_prompt(json.loads(parameters), target)]
            database.executemany("UPDATE flow_run SET parameters = '{}' WHERE id = ?", found)
            wanted = [text for text in texts if len(text) >= FEWEST_CHARS][:MOST_TEXTS]
            for table in sorted(tables & TEXT.keys()):
                _blank(database, table, wanted)
            done.flow_runs += len(found)
        if num_left := len(set(texts) - set(wanted)):
            done.left.append(
                f"{path}: messages and events may quote {num_left} texts that are too short or too many to search for"
            )
        with closing(sqlite3.connect(path, timeout=30)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except (sqlite3.Error, ValueError) as error:
        done.unfinished.append(f"Prefect's database {path} may still hold it: {error}")


def _blank(database: sqlite3.Connection, table: str, texts: Sequence[str]) -> None:
    """Replace ``texts`` in every message, state and event of ``table``."""
    there = {name for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    for column in (name for name in TEXT[table] if name in there):
        for text in texts:
            for form in {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]} - {""}:
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?) > 0',
                    (form, "(erased)", form),
                )


def _erase_on_server(url: str, target: Target, done: ErasedRows) -> None:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    ours = FlowFilter(name=FlowFilterName(any_=["align", "shards", "score shards"]))
    seen = 0
    try:
        with get_client(sync_client=True) as client:
            while page := client.read_flow_runs(flow_filter=ours, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=seen):
                seen += len(page)
                for run in page:
                    if holds_prompt(run.parameters, target):
                        client.update_flow_run(run.id, parameters={}).raise_for_status()
                        done.flow_runs += 1
    except (httpx.HTTPError, RuntimeError) as error:
        why = f"{type(error).__name__}: {redacted_text(str(error))}"
        done.unfinished.append(f"Prefect's server at {url} may still hold it: {why}")
