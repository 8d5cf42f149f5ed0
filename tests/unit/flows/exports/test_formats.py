"""Model card, ML-BOM, OpenLineage, signatures: valid to their own readers, and true to the records."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from flows.exports import sources
from flows.exports.bom import bom
from flows.exports.dossier import Dossier, open_dossier
from flows.exports.lineage_events import events
from flows.exports.model_card import model_card, plain
from flows.exports.signature import sign, verify_signature
from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import file_digest
from raft_core.forgetting.erasure import Erased, write_tombstone
from raft_core.promotion.ledger import FileLedger
from raft_core.records.run import BASE, Run
from raft_core.records.tables import EVALUATION, read_table, write_table
from raft_core.rewards.base import RewardConfig, RewardFn
from raft_core.rewards.lexicon import LexiconRewardConfig

FACET = {
    "type": "object",
    "required": ["_producer", "_schemaURL"],
    "properties": {"_producer": {"format": "uri"}, "_schemaURL": {"format": "uri"}},
}
FACETS = {"type": "object", "additionalProperties": FACET}
DATASET = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {
        "namespace": {"type": "string"},
        "name": {"type": "string"},
        "facets": FACETS,
        "inputFacets": FACETS,
        "outputFacets": FACETS,
    },
}
EVENT = {
    "type": "object",
    "required": ["run", "job", "eventTime", "producer"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "format": "uri"},
        "run": {"required": ["runId"], "properties": {"runId": {"format": "uuid"}, "facets": FACETS}},
        "job": {"required": ["namespace", "name"], "properties": {"name": {"type": "string"}, "facets": FACETS}},
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {"type": "array", "items": DATASET},
    },
}
"""What the published schema of OpenLineage demands of a run event."""


# -- model card ------------------------------------------------------------------------------------


def test_the_hub_reads_the_card(dossier: Dossier) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(dossier))
    assert card.data.library_name == "peft"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["reward"] == 0.68
    assert results["kl"] == 0.4
    assert dossier.link.commit in card.text
    assert dossier.link.policy.digest in card.text
    assert "| iteration 1 | 6 | 12 | 1 | 3 |" in card.text
    assert "not run" in card.text
    assert model_card(dossier) == model_card(dossier)


def test_no_text_of_the_run_becomes_markup(dossier: Dossier) -> None:
    text = model_card(dossier)
    body = text.split("---\n", 2)[2]
    assert not re.search(r"<(?!/?details)[a-zA-Z/!]", body)
    assert "hunter2" not in text
    assert plain("[a](javascript:x) <b> `c` | *d* https://e.org @f") == (
        r"\[a\](javascript:x) &lt;b\> \`c\` \| \*d\* https:\//e.org \@f"
    )


def test_hostile_names_stay_in_the_metadata_block(dossier: Dossier) -> None:
    block = model_card(dossier).split("---\n", 2)[1]
    assert yaml.safe_load(block)["model-index"][0]["name"] == "raft-made"


# -- CycloneDX ---------------------------------------------------------------------------------------


def test_the_bom_is_valid_and_names_everything_by_digest(dossier: Dossier) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = bom(dossier)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text == bom(dossier)
    document = json.loads(text)
    model = document["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": dossier.link.policy.digest}]
    metrics = {m["type"]: m["value"] for m in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["held-out reward"] == "0.68"
    refs = {component["bom-ref"] for component in document["components"]}
    assert {dataset["ref"] for dataset in model["modelCard"]["modelParameters"]["datasets"]} <= refs
    assert {"pkg:pypi/torch@2.13.0", "pkg:pypi/transformers@5.23.0"} <= refs
    for link in dossier.lineage.links[:-1]:
        assert f"data:{link.outputs['tables/selected.parquet']}" in refs
    flags = {p["name"]: p["value"] for p in document["metadata"]["properties"]}
    assert flags["raft:trust_remote_code"] == "false"
    assert flags["raft:commit"] == dossier.link.commit


def test_code_of_the_model_folder_is_told_in_every_export(dossier: Dossier) -> None:
    from dataclasses import replace

    from flows.exports.audit import audit_page
    from flows.exports.audit_data import CODE_DID_NOT_RUN, CODE_RAN

    trusting = dossier.run.config.policy.model_copy(update={"trust_remote_code": True})
    run = replace(dossier.run, config=dossier.run.config.model_copy(update={"policy": trusting}))
    trusted = replace(dossier, run=run)
    assert '"raft:trust_remote_code",\n    "value": "true"' in bom(trusted)
    assert "run (trust\\_remote\\_code)" in model_card(trusted)
    assert CODE_RAN in audit_page(trusted)
    assert CODE_RAN not in audit_page(dossier)
    assert CODE_DID_NOT_RUN in audit_page(dossier)


def test_the_base_has_a_bom_too(exported_run: Run) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = bom(open_dossier(exported_run, BASE, resolve=Path))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


# -- OpenLineage ---------------------------------------------------------------------------------------


def test_every_event_fits_the_published_schema(dossier: Dossier) -> None:
    text = events(dossier)
    assert text == events(dossier)
    validator = Draft202012Validator(EVENT, format_checker=FormatChecker())
    read = [json.loads(line) for line in text.splitlines()]
    assert [e for event in read for e in validator.iter_errors(event)] == []
    assert [event["eventType"] for event in read] == ["START", "COMPLETE"] * 3
    assert len({event["run"]["runId"] for event in read}) == 3
    for event in read:
        assert event["job"] == {**event["job"], "namespace": "raft", "name": "made.evaluate"}
        names = [dataset["name"] for dataset in event["inputs"]]
        assert len(names) == len(set(names))
        assert "a" * 64 in names
    assert dossier.link.policy.digest in [dataset["name"] for dataset in read[-1]["inputs"]]


def test_a_reward_of_an_unknown_type_is_not_passed_off_as_vader() -> None:
    class MagicRewardConfig(RewardConfig):
        type: str = "magic"

        def load(self, *, weights: bool = True) -> RewardFn:
            raise NotImplementedError

    told = sources.Named("reward", MagicRewardConfig().reference)
    assert (told.reference, told.licence) == ("a reward of type magic", sources.UNKNOWN)
    assert LexiconRewardConfig().reference == sources.VADER


def test_a_missing_package_names_the_extra(dossier: Dossier, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from raft_core.errors import ConfigError

    for name in [name for name in sys.modules if name.startswith(("openlineage", "model_signing"))]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("openlineage", "openlineage.client.serde", "model_signing", "model_signing.signing"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"raft-mlops\[exports\]"):
        events(dossier)
    with pytest.raises(ConfigError, match=r"raft-mlops\[exports\]"):
        sign(dossier.run, 1, Path("key"), Path("out"))


# -- signatures ----------------------------------------------------------------------------------------


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_a_signature_holds_for_these_files_and_this_key_alone(copied_run: Run, tmp_path: Path) -> None:
    (private, public), (_, other) = keys(tmp_path, "ours"), keys(tmp_path, "theirs")
    signature = tmp_path / "made.sig"
    assert sign(copied_run, 1, private, signature) == ["policy", "commit.json"]
    verify_signature(copied_run, 1, public, signature)
    statement = json.loads(signature.read_text())
    payload = statement["dsseEnvelope"]["payload"]
    statement["dsseEnvelope"]["payload"] = payload[:-8] + "AAAAAAA="
    forged = tmp_path / "forged.sig"
    forged.write_text(json.dumps(statement))
    for iteration, key, file in ((1, other, signature), (0, public, signature), (1, public, forged)):
        with pytest.raises(IntegrityError) as failure:
            verify_signature(copied_run, iteration, key, file)
        assert str(file) in failure.value.what
        assert f"iteration {iteration}" in failure.value.what
    (copied_run.folder(1) / "policy" / "extra.json").write_text("{}")
    with pytest.raises(IntegrityError):
        verify_signature(copied_run, 1, public, signature)


def test_what_does_not_verify_is_not_signed(copied_run: Run, tmp_path: Path) -> None:
    private, _ = keys(tmp_path, "ours")
    weights = copied_run.folder(1) / "policy" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(IntegrityError, match="changed bytes"):
        sign(copied_run, 1, private, tmp_path / "made.sig")
    assert not (tmp_path / "made.sig").exists()


def test_a_signature_holds_where_only_the_policy_was_brought(copied_run: Run, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    sign(copied_run, 1, private, tmp_path / "made.sig")
    shutil.rmtree(copied_run.folder(1) / "tables")
    verify_signature(copied_run, 1, public, tmp_path / "made.sig")


def test_an_erasure_that_nobody_ordered_is_not_signed_nor_published(copied_run: Run, tmp_path: Path) -> None:
    private, _ = keys(tmp_path, "ours")
    table = copied_run.table(1, "evaluation")
    was = file_digest(table)
    write_table(table, read_table(table, EVALUATION).slice(1), EVALUATION)
    tombstone = write_tombstone(
        copied_run.folder(1), {"tables/evaluation.parquet": Erased(was, file_digest(table), 1)}, ["nobody"]
    )
    with pytest.raises(IntegrityError, match="the ledger has no erasure"):
        sign(copied_run, 1, private, tmp_path / "made.sig")
    with pytest.raises(IntegrityError, match="the ledger has no erasure"):
        open_dossier(copied_run, 1, resolve=Path).require_verified()
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    ledger.append("erased", "raft-made", {"tombstone": tombstone.digest}, time="2026-01-01T00:00:00+00:00")
    assert sign(copied_run, 1, private, tmp_path / "made.sig", ledger.entries())
    open_dossier(copied_run, 1, entries=ledger.entries(), resolve=Path).require_verified()


def test_keys_that_cannot_sign_and_policies_that_are_none(copied_run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key")
    for key in (tmp_path / "text.pem", tmp_path / "absent.pem"):
        with pytest.raises(InputError) as failure:
            sign(copied_run, 1, key, tmp_path / "made.sig")
        assert str(key) in failure.value.what
    with pytest.raises(InputError) as failure:
        sign(copied_run, BASE, tmp_path / "text.pem", tmp_path / "made.sig")
    assert "the base of run made" in failure.value.what


def test_the_commands(
    exported_run: Run, tmp_path: Path, raft: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFT_WORKSPACE", str(exported_run.path.parent.parent))
    written: dict[str, Any] = {}
    for name in ("model-card", "cyclonedx", "openlineage"):
        assert raft("export", name, "made@1", "-o", str(tmp_path / name))[0] == 0
        written[name] = (tmp_path / name).read_text()
    assert written["model-card"].startswith("---\n")
    private, public = keys(tmp_path, "ours")
    signature = str(tmp_path / "s.sig")
    assert raft("export", "sign", "made@1", "--key", str(private), "--out", signature)[0] == 0
    assert raft("export", "verify-signature", "made@1", signature, "--key", str(public))[0] == 0
    assert raft("export", "verify-signature", "made@0", signature, "--key", str(public))[0] == 4


def test_the_signature_is_checked_without_a_network(copied_run: Run, tmp_path: Path) -> None:
    """In a process whose sockets raise."""
    private, public = keys(tmp_path, "ours")
    code = (
        "import socket, sys\n"
        "def no(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "from pathlib import Path\n"
        "from flows.exports.signature import sign, verify_signature\n"
        "from raft_core.records.run import read_run\n"
        "run, private, public, out = read_run(Path(sys.argv[1])), *map(Path, sys.argv[2:])\n"
        "sign(run, 1, private, out); verify_signature(run, 1, public, out)\n"
    )
    arguments = [str(copied_run.path), str(private), str(public), str(tmp_path / "s.sig")]
    import sys

    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
