"""A policy was made of rows that were erased since: every count says how many it was made of, and how many are gone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.exports.audit import audit_page
from flows.exports.bom import bom
from flows.exports.dossier import Dossier, open_dossier
from flows.exports.model_card import model_card
from raft_core.files.artifacts import file_digest
from raft_core.forgetting.erasure import Erased, write_tombstone
from raft_core.promotion.ledger import FileLedger
from raft_core.records.run import Run
from raft_core.records.tables import SCHEMAS, read_table, write_table

NUM_ERASED = {"prompts": 1, "samples": 2, "selected": 1}
"""The first prompt of iteration 1 and what was sampled from it, of 6, 12 and 3 rows."""


@pytest.fixture
def lessened(copied_run: Run, tmp_path: Path) -> Dossier:
    """The records of iteration 1 after the erasure of its first prompt, which the ledger orders."""
    erased = {}
    for name, count in NUM_ERASED.items():
        path = copied_run.table(1, name)
        was = file_digest(path)
        write_table(path, read_table(path, SCHEMAS[name]).slice(count), SCHEMAS[name])
        erased[f"tables/{name}.parquet"] = Erased(was, file_digest(path), count)
    tombstone = write_tombstone(copied_run.folder(1), erased, ["prompt 1"])
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    ledger.append("erased", "raft-made", {"tombstone": tombstone.digest}, time="2026-01-01T00:00:00+00:00")
    dossier = open_dossier(copied_run, 1, entries=ledger.entries(), resolve=Path)
    dossier.require_verified()
    return dossier


def test_the_card(lessened: Dossier, dossier: Dossier) -> None:
    text = model_card(lessened)
    assert "| iteration 1 | 6 (1 erased) | 12 (2 erased) | 1 | 3 (1 erased) |" in text
    assert "| iteration 0 | 6 | 12 | 1 | 3 |" in text
    assert text.count("erased") == model_card(dossier).count("erased") + 4


def test_the_bom(lessened: Dossier) -> None:
    found = {c["name"]: c for c in json.loads(bom(lessened))["components"]}
    properties = {p["name"]: p["value"] for p in found["selected set of iteration 1"]["properties"]}
    assert {name: properties[f"raft:{name}"] for name in ("rows", "samples", "rows_erased", "samples_erased")} == {
        "rows": "3",
        "samples": "12",
        "rows_erased": "1",
        "samples_erased": "2",
    }
    assert all("erased" not in p["name"] for p in found["selected set of iteration 0"]["properties"])


def test_the_page(lessened: Dossier, dossier: Dossier, texts: Callable[[str], list[str]]) -> None:
    page = texts(audit_page(lessened))
    assert "12 (2 erased)" in page
    tiles = list(zip(page, page[1:], page[2:], strict=False))
    for name, value, more in (
        ("prompts drawn", "12", "; 1 erased since"),
        ("completions sampled", "24", "; 2 erased since"),
        ("quarantined", "2", "never trained on"),
        ("selected", "6", "; 1 erased since"),
    ):
        assert next(told for title, number, told in tiles if (title, number) == (name, value)).endswith(more)
    assert "erased" not in "".join(texts(audit_page(dossier)))


def test_lineage_show(
    lessened: Dossier, raft: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFT_WORKSPACE", str(lessened.run.path.parent.parent))
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = raft("lineage", "show", "made@1")
    assert code == 0
    assert "6 prompts (1 erased) → 12 samples (2 erased) → 3 selected (1 erased) (1 quarantined)" in out
    assert "6 prompts → 12 samples → 3 selected (1 quarantined)" in out
    told = json.loads(raft("lineage", "show", "made@1", "--json")[1])
    assert told["links"][0]["counts"] == {
        "prompts": 6,
        "samples": 12,
        "selected": 3,
        "quarantined": 1,
        "erased": NUM_ERASED,
    }
