"""Set MLflow's aliases ``champion`` and ``previous`` to what the ledger says. Can be repeated at any time."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from raft_core.errors import IntegrityError, RaftError
from raft_core.promotion.decision import figures
from raft_core.promotion.ledger import Entry, Ledger, NamedPolicy, current, last_digest, names
from raft_core.records.run import read_commit, read_run
from tasks.tracking.connection import connected, database
from tasks.tracking.registry import WITHDRAWN, find_version, register_version

CHAMPION, PREVIOUS = "champion", "previous"
LEDGER_TAG = "raft.ledger"
"""Tag of a registered model: number and digest of the ledger's last entry. It shows if the ledger loses its end."""

MAX_TAG = 5000
"""Maximum length of a tag that every MLflow version accepts."""


def apply(ledger: Ledger, runs: Path, uri: str) -> list[str]:
    """Bring aliases and tags of the registry up to date with the ledger; returns what could not be registered, and why.

    Idempotent. A missing version (MLflow could not be reached, or has a new database) is registered from its run in
    ``runs``. Processes that run at the same time read the ledger again after writing, so the final state is right.
    Raises StepError if MLflow cannot be reached, and IntegrityError, without writing anything, if the registry has
    seen an entry that the ledger lacks.
    """
    witnesses = read_witnesses(uri)
    seen, missing = None, list[str]()
    while seen != (last := last_digest(entries := ledger.entries())):
        hold_ledger(witnesses, entries)
        models = sorted({e.model for e in entries if e.kind in ("promoted", "rolled_back")})
        missing = [fault for model in models for fault in _fill_in(entries, model, runs, uri)]
        with connected(uri) as client:
            for model in models:
                _set_aliases(client, entries, model)
            _mark_withdrawn(client, entries)
            for model in sorted({entry.model for entry in entries}):
                _leave_witness(client, entries[-1], model)
        seen = last
    return missing


def read_witnesses(uri: str) -> dict[str, str]:
    """Registered model → number and digest of the last ledger entry that MLflow has seen. Raises StepError.

    Read it before the ledger: an entry is in the ledger before a tag names it.
    """
    if (path := database(uri)) is not None and not path.exists():
        return {}
    found, token = dict[str, str](), None
    with connected(uri) as client:
        while True:
            page = client.search_registered_models(page_token=token)
            found |= {model.name: model.tags[LEDGER_TAG] for model in page if LEDGER_TAG in model.tags}
            if not (token := page.token):
                return found


def hold_ledger(seen: Mapping[str, str], entries: Sequence[Entry], models: Collection[str] = ()) -> None:
    """Raise IntegrityError unless ``entries`` contain every entry that the registry has seen.

    Checks the ledger's own models and ``models``, since one MLflow server may serve several ledgers.
    """
    known = {*models, *(entry.model for entry in entries)}
    ours = {f"{entry.number} {entry.digest}" for entry in entries}
    for model, witness in seen.items():
        if model in known and witness not in ours:
            raise IntegrityError(
                f"the ledger lacks an entry that the registered model {model} in MLflow names in its tag {LEDGER_TAG}",
                got=f"{len(entries)} entries, the last {last_digest(entries)}",
                expected=f"entry {witness}",
                hint="restore the ledger from a copy; if its last entries are lost for good, delete the tag "
                f"{LEDGER_TAG} of {model} in MLflow",
            )


def _fill_in(entries: Sequence[Entry], model: str, runs: Path, uri: str) -> list[str]:
    """Register the champion and the previous champion if MLflow does not have them; returns what failed."""
    standing = current(entries, model)
    with connected(uri) as client:
        unknown = [h for h in (standing.champion, standing.previous) if h and not find_version(client, model, h.commit)]
    faults = []
    for holder in unknown:
        try:
            run = read_run(runs / holder.run)
            commit = read_commit(run, holder.iteration)
            if commit is None or commit.digest != holder.commit:
                raise FileNotFoundError(f"{run.path} holds another run of this name")
            register_version(run, holder.iteration, uri)
        except (RaftError, OSError) as error:
            faults.append(f"cannot register {holder.run}@{holder.iteration} as a version of {model}: {error}")
    return faults


def _set_aliases(client: MlflowClient, entries: Sequence[Entry], model: str) -> None:
    found = client.search_registered_models(f"name = '{model}'")
    if not found:
        return
    held, standing = dict(found[0].aliases), current(entries, model)
    for alias, holder in ((PREVIOUS, standing.previous), (CHAMPION, standing.champion)):
        version = find_version(client, model, holder.commit) if holder else None
        if version is None and alias in held:
            client.delete_registered_model_alias(model, alias)
        elif version is not None and str(held.get(alias)) != version:
            client.set_registered_model_alias(model, alias, version)
        if version is not None and holder is not None:
            _tag(client, model, version, holder, entries)


def _leave_witness(client: MlflowClient, last: Entry, model: str) -> None:
    """Name the last ledger entry on a model, even one that was never promoted: it may have been withdrawn."""
    found, witness = client.search_registered_models(f"name = '{model}'"), f"{last.number} {last.digest}"
    if found and found[0].tags.get(LEDGER_TAG) != witness:
        client.set_registered_model_tag(model, LEDGER_TAG, witness)


def _tag(client: MlflowClient, model: str, version: str, holder: NamedPolicy, entries: Sequence[Entry]) -> None:
    """Tag a version with who promoted it last, and the figures; a rollback keeps the figures of the promotion."""
    entry = next(e for e in entries if e.digest == holder.entry)
    decided = [e.body for e in entries if e.model == model and e.body.get("commit") == holder.commit and _decision(e)]
    wanted = {
        "raft.promotion": entry.digest,
        "raft.promoted_at": entry.time,
        "raft.requested_by": entry.body.get("requested_by"),
        "raft.approved_by": entry.body.get("approved_by"),
        "raft.rules": decided[-1].get("rules") if decided else None,
        "raft.figures": _figures(decided[-1]["decision"]) if decided else None,
    }
    has = client.get_model_version(model, version).tags
    for key, value in wanted.items():
        if value is not None and has.get(key) != value:
            client.set_model_version_tag(model, version, key, str(value))
        elif value is None and key in has:
            client.delete_model_version_tag(model, version, key)


def _decision(entry: Entry) -> bool:
    return entry.kind == "promoted" and "decision" in entry.body


def _figures(decision: Mapping[str, Any]) -> str:
    """As JSON, in the order of the gates. Cut to ``MAX_TAG`` if there are hundreds of prompt groups."""
    rounded = {
        gate: [v if v is None else float(f"{v:.4g}") for v in values] for gate, values in figures(decision).items()
    }
    while len(text := json.dumps(rounded)) > MAX_TAG:
        rounded.popitem()
    return text


def _mark_withdrawn(client: MlflowClient, entries: Sequence[Entry]) -> None:
    """Tag withdrawn versions and remove their aliases, under every registered name."""
    for entry in (e for e in entries if e.kind in ("withdrawn", "erased")):
        commit, policy = str(entry.body.get("commit")), str(entry.body.get("policy"))
        for tag, value in (("raft.commit", commit), ("raft.policy_identity", policy)):
            for version in client.search_model_versions(f"tags.`{tag}` = '{value}'"):
                if not names(entry.body, version.tags.get("raft.commit", ""), version.tags.get(tag, "")):
                    continue
                if version.tags.get(WITHDRAWN) != entry.digest:
                    client.set_model_version_tag(version.name, version.version, WITHDRAWN, entry.digest)
                for alias in client.get_model_version(version.name, version.version).aliases:
                    client.delete_registered_model_alias(version.name, alias)
