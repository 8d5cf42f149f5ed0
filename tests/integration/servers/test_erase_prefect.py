"""Prompts that earlier versions handed to flows go from Prefect's database: over the API, and from a local file."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.forgetting import prefect_database
from flows.forgetting.prefect_database import erase_in_prefect, holds_prompt
from flows.orchestration import server as prefect_server
from raft_core.forgetting.target_rows import Target
from raft_core.types import Prompt
from tasks.forgetting.erase import ErasedRows


@dataclass(frozen=True, slots=True)
class OldMaterial:
    """What a run was made of, as it was handed to the flow."""

    train: tuple[Prompt, ...]


@flow(name="align", validate_parameters=False)
def align(material: OldMaterial) -> UUID:
    """A flow run of an earlier version; one that fails quotes a prompt."""
    from prefect.runtime import flow_run

    if "fails" in material.train[0].text:
        raise ValueError(f"no answer to {material.train[0].text}")
    return UUID(str(flow_run.get_id()))


def parameters_of(identity: UUID) -> str:
    with get_client(sync_client=True) as client:
        return json.dumps(client.read_flow_run(identity).parameters)


def wait_for_events(database: Path, quoted: str) -> None:
    """The server writes events down when it has time."""
    deadline = time.monotonic() + 300
    with closing(sqlite3.connect(database)) as reader:
        while not reader.execute(
            "SELECT count(*) FROM events WHERE instr(resource, ?) OR instr(payload, ?)", (quoted, quoted)
        ).fetchone()[0]:
            assert time.monotonic() < deadline, "no event of the failure came"
            time.sleep(0.1)


def where(database: Path, text: str) -> list[str]:
    """Table and column in which ``text`` stands yet; none: it lies in freed bytes."""
    with closing(sqlite3.connect(database)) as reader:
        places = reader.execute(
            "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
        ).fetchall()
        asked = 'SELECT count(*) FROM "{}" WHERE instr("{}", ?)'
        return [f"{t}.{c}" for t, c in places if reader.execute(asked.format(t, c), (text,)).fetchone()[0]]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_server.tied():
        yield


SECRET, KEPT = Prompt.of("my secret number is 4711", source="leaked"), Prompt.of("a film")


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        (Target(frozenset([SECRET.prompt_id])), True),
        (Target(frozenset(), frozenset(["leaked"])), True),
        (Target(frozenset(), text="number is 47"), True),
        (Target(frozenset(["0" * 32]), frozenset(["books"]), "film noir"), False),
    ],
)
def test_what_holds_a_prompt(target: Target, holds: bool) -> None:
    prompts = [{"prompt_id": p.prompt_id, "text": p.text, "source": p.source} for p in (KEPT, SECRET)]
    assert holds_prompt({"job": {"folder": "x"}, "missing": {"3": prompts}}, target) is holds


def test_a_local_database_holds_no_byte_of_it_afterwards() -> None:
    from prefect.settings import get_current_settings

    fails = Prompt.of("this fails: my secret number is 0815")
    gone, stays = align(OldMaterial((SECRET, KEPT))), align(OldMaterial((KEPT,)))
    with pytest.raises(ValueError, match="0815"):
        align(OldMaterial((fails,)))
    assert SECRET.text in parameters_of(gone)
    home = get_current_settings().home
    wait_for_events(home / "prefect.db", "0815")
    done = ErasedRows()
    target = Target(frozenset([SECRET.prompt_id, fails.prompt_id]))
    erase_in_prefect(target, [SECRET.text, fails.text], done)
    assert (done.flow_runs, done.unfinished, done.left) == (2, [], [])
    assert parameters_of(gone) == "{}"
    assert KEPT.text in parameters_of(stays)
    for path in home.glob("prefect.db*"):
        data = path.read_bytes()
        assert SECRET.text.encode() not in data, path
        assert fails.text.encode() not in data, where(path, fails.text)


def test_a_short_text_is_not_looked_for_in_the_ids_and_names_of_all_flows() -> None:
    from prefect.settings import get_current_settings

    def names() -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(get_current_settings().home / "prefect.db")) as reader:
            return reader.execute("SELECT id, name FROM flow UNION SELECT id, name FROM flow_run").fetchall()

    align(OldMaterial((KEPT,)))
    before, done = names(), ErasedRows()
    digit = before[0][0][0]
    erase_in_prefect(Target(frozenset(), text="align"), ["align", digit], done)
    assert names() == before
    assert ["2 texts" in told for told in done.left] == [True]


def test_parameters_of_others_may_have_any_form() -> None:
    assert not holds_prompt({"prompt_id": ["a"], "source": {}, "more": {"prompt_id": {}}}, Target(frozenset(["a"])))


def test_a_server_empties_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, stays = align(OldMaterial((SECRET,))), align(OldMaterial((KEPT,)))
    monkeypatch.setattr("flows.forgetting.prefect_database._erase_in_file", lambda *_: None)
    done = ErasedRows()
    with temporary_settings({PREFECT_API_URL: prefect_server.address()}):
        erase_in_prefect(Target(frozenset([SECRET.prompt_id])), [SECRET.text], done)
    assert (done.flow_runs, done.unfinished) == (1, [])
    assert parameters_of(gone) == "{}"
    assert KEPT.text in parameters_of(stays)


def test_what_is_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "prefect.db"
    damaged.write_bytes(b"no database" * 100)
    done = ErasedRows()
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        monkeypatch.setattr(prefect_database, "_database", lambda: f"sqlite+aiosqlite:///{damaged}")
        erase_in_prefect(Target(frozenset(["x"])), [], done)
        monkeypatch.setattr(prefect_database, "_database", lambda: "postgresql://me:pw@db/prefect")
        erase_in_prefect(Target(frozenset(["x"])), [], done)
    assert str(damaged) in done.unfinished[0]
    assert "http://127.0.0.1:9/api" in done.unfinished[1]
    assert "PREFECT_API_URL" in done.left[0]
    assert "pw" not in done.left[0]
