"""What the exports say of a policy that the ledger withdrew, and of one that was trained from it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.exports.audit import audit_page
from flows.exports.bom import bom
from flows.exports.dossier import Dossier, open_dossier
from flows.exports.model_card import model_card
from flows.exports.signature import sign
from raft_core.errors import GateStop
from raft_core.promotion.ledger import Entry, FileLedger
from raft_core.records.run import Run, read_chain

REASON = "a customer <b>asked</b>, password=hunter2"
Withdraw = Callable[[Path, int], list[Entry]]


@pytest.fixture
def withdraw(copied_run: Run) -> Withdraw:
    """Entries of a ledger at a path whose second one withdraws an iteration of the run."""

    def write(path: Path, iteration: int) -> list[Entry]:
        commit, ledger = read_chain(copied_run)[iteration + 1], FileLedger(path)
        about = {
            "run": "made",
            "iteration": iteration,
            "commit": commit.digest,
            "policy": commit.content["policy"]["identity"],
            "reason": REASON,
        }
        ledger.append("refused", "raft-made", about, time="2026-01-02T03:04:05+00:00")
        ledger.append("withdrawn", "raft-made", about, time="2026-01-02T03:05:05+00:00")
        return ledger.entries()

    return write


@pytest.fixture
def withdrawn(copied_run: Run, tmp_path: Path, withdraw: Withdraw) -> Dossier:
    """The records of iteration 1, which the ledger withdrew."""
    return open_dossier(copied_run, 1, entries=withdraw(tmp_path / "ledger.jsonl", 1), resolve=Path)


def test_the_card_begins_with_it(withdrawn: Dossier) -> None:
    from huggingface_hub import ModelCard

    text = model_card(withdrawn)
    assert ModelCard(text).data.model_name == "raft-made"
    lines = text.split("---\n", 2)[2].strip().splitlines()
    assert lines[:5] == [
        r"> **WITHDRAWN by entry 2 of the ledger: a customer &lt;b\>asked&lt;/b\>, password=\[redacted\]**",
        ">",
        r"> made\@1 was withdrawn by entry 2. Do not use it.",
        "",
        "# raft-made, iteration 1",
    ]


def test_the_bom_has_a_property_of_the_model(withdrawn: Dossier) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = bom(withdrawn)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    flags = {p["name"]: p["value"] for p in json.loads(text)["metadata"]["component"]["properties"]}
    assert flags["raft:withdrawn"] == "entry 2: a customer <b>asked</b>, password=[redacted]"


def test_the_page_says_it_in_red_above_everything_else(withdrawn: Dossier, texts: Callable[[str], list[str]]) -> None:
    page = audit_page(withdrawn)
    assert page.index('<div class="withdrawn"') < page.index("<h1>") < page.index(">verified<")
    assert "<title>WITHDRAWN · " in page
    assert re.search(r"\.withdrawn \{ border: 3px solid var\(--bad\);[^}]*color: var\(--bad\)", page)
    assert "WITHDRAWN by entry 2 of the ledger: a customer <b>asked</b>, password=[redacted]" in texts(page)
    assert "made@1 was withdrawn by entry 2. Do not use it." in "".join(texts(page))
    assert "<b>asked" not in page
    assert "hunter2" not in page


def test_what_was_trained_from_it_says_so_too(copied_run: Run, tmp_path: Path, withdraw: Withdraw) -> None:
    entries = withdraw(tmp_path / "ledger.jsonl", 0)
    child = open_dossier(copied_run, 1, entries=entries, resolve=Path)
    told = "was trained from made@0, which was withdrawn by entry 2. Do not use it."
    assert told in audit_page(child)
    assert told.replace("@", r"\@") in model_card(child)
    assert '"raft:withdrawn"' in bom(child)
    assert open_dossier(copied_run, 0, entries=entries, resolve=Path).withdrawal is not None
    with pytest.raises(GateStop, match=r"made@1 was trained from made@0, which was withdrawn by entry 2"):
        sign(copied_run, 1, tmp_path / "key.pem", tmp_path / "made.sig", entries)


def test_a_withdrawal_elsewhere_in_the_chain_changes_nothing_before_it(
    copied_run: Run, tmp_path: Path, withdraw: Withdraw
) -> None:
    parent = open_dossier(copied_run, 0, entries=withdraw(tmp_path / "ledger.jsonl", 1), resolve=Path)
    unasked = open_dossier(copied_run, 0, resolve=Path)
    assert parent.withdrawal is None
    assert model_card(parent) == model_card(unasked)
    assert bom(parent) == bom(unasked)
    assert 'class="withdrawn"' not in audit_page(parent).replace('<li class="withdrawn"', "")


def test_the_commands(
    copied_run: Run, withdraw: Withdraw, raft: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.process.environment import ledger_uri

    workspace = copied_run.path.parent.parent
    monkeypatch.setenv("RAFT_WORKSPACE", str(workspace))
    withdraw(Path(ledger_uri(workspace).removeprefix("file:")), 1)
    signature = workspace / "made.sig"
    code, _, err = raft("export", "sign", "made@1", "--key", str(workspace / "key.pem"), "--out", str(signature))
    assert code == 3
    assert "made@1 was withdrawn by entry 2 of the ledger" in " ".join(err.split())
    assert not signature.exists()
    assert raft("export", "model-card", "made@1", "-o", str(workspace / "card.md"))[0] == 0
    assert "WITHDRAWN by entry 2" in (workspace / "card.md").read_text()
