"""Prompts in Prefect's database: earlier versions of RAFT handed them to flows, and Prefect keeps a flow's parameters.

A local database (sqlite) is emptied in place, its freed bytes overwritten. Of a server, the API empties parameters;
what else lies in its database is for its owner (``aftermath.NOT_ERASED``).
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
"""Flow runs of one answer of a server: each may have half a megabyte of parameters."""
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
"""Table → columns in which words of a person may stand. The others hold ids, names and times, of other projects too."""
FEWEST_CHARS = 8
"""Of a text that is looked for: a shorter one would be found inside ids and words that have nothing to do with it."""


def erase_in_prefect(target: Target, texts: Sequence[str], done: ErasedRows) -> None:
    """Empty the parameters of every flow run that was handed a prompt of ``target``, where Prefect keeps them.

    ``texts``: of those prompts, to be looked for in messages of errors. What is out of reach is in ``done``.
    """
    from prefect.settings import PREFECT_API_URL

    database = _database()
    kind, _, where = database.partition(":///")
    if kind.startswith("sqlite"):
        path = Path(where.partition("?")[0])
        if path.is_file():
            _erase_in_file(path, target, texts, done)
    elif database:
        told = redacted_text(database)
        done.left.append(f"{told}: parameters of Prefect's flow runs may hold it; empty them, or set PREFECT_API_URL")
    if url := PREFECT_API_URL.value():
        _erase_on_server(redacted_text(url), target, done)


def _database() -> str:
    """Where a server that is started here keeps its records: a URL, maybe with a password."""
    from prefect.settings import get_current_settings

    configured = get_current_settings().server.database.connection_url
    return "" if configured is None else configured.get_secret_value()


def holds_prompt(parameters: Any, target: Target) -> bool:
    """Whether a prompt of ``target`` stands anywhere in a flow run's parameters."""
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
                f"messages and events in {path} may quote {num_left} texts, which are too short or too many to look for"
            )
        with closing(sqlite3.connect(path, timeout=30)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except (sqlite3.Error, ValueError) as error:
        done.unfinished.append(f"Prefect's database {path} may hold it yet: {error}")


def _blank(database: sqlite3.Connection, table: str, texts: Sequence[str]) -> None:
    """Cut ``texts`` out of every message, state and event."""
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
        told = f"{type(error).__name__}: {redacted_text(str(error))}"
        done.unfinished.append(f"Prefect's server at {url} may hold it yet: {told}")
