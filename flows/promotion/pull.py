"""Bring a model out: a plain transformers folder, verified byte by byte, for whatever serves it."""

import re
import shutil
from pathlib import Path

from flows.models import find_policy
from flows.promotion.promote import Place, refuse_withdrawn, run_of, weights_kept
from flows.promotion.rollback import find_holder, the_model, weights
from flows.views.run import view_run
from raft_core.errors import InputError
from raft_core.policies.base import backend
from raft_core.records.artifacts import digest_of, fsync_folder, write_json
from raft_core.records.ledger import Entry, Holder
from raft_core.records.lineage import policy_facts
from raft_core.records.run import BASE, Run
from raft_core.types import Policy
from tasks.contender import committed
from tasks.register import model_name

MANIFEST = "raft.json"
_ALIAS = re.compile(r"(?:(?P<model>[^@]+)@)?(?P<alias>champion|previous)")


def pull(reference: str, out: Path, place: Place) -> dict[str, object]:
    """Write the model that ``reference`` means to ``out``, which appears whole; returns its manifest.

    ``reference``: champion, previous, MODEL@champion (the ledger says which one that is), or RUN@N.
    Weights that lie elsewhere are restored from DVC. Raises InputError if ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists", do="name a folder that does not")
    with weights_kept(place):
        return _pull(reference, out, place)


def _pull(reference: str, out: Path, place: Place) -> dict[str, object]:
    entries = place.ledger.entries()
    run, iteration, holder = _find(entries, reference, place)
    commit = committed(run, iteration)
    facts = policy_facts(commit.content)
    named = {"run": run.name, "iteration": iteration, "commit": commit.digest, "policy": facts.identity}
    refuse_withdrawn(entries, named)
    policy = weights(run, iteration, place)
    aside = out.with_name(f".{out.name}.pulling")
    shutil.rmtree(aside, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write_plain(run, policy, aside)
        manifest: dict[str, object] = {
            **named, "model": model_name(run), "ledger_entry": holder.entry if holder else None,
            "weights": facts.digest, "base": facts.base,
            "files": {path.name: digest_of(path) for path in sorted(aside.iterdir())},
        }  # fmt: skip
        write_json(aside / MANIFEST, manifest)
        aside.rename(out)
        fsync_folder(out.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _find(entries: list[Entry], reference: str, place: Place) -> tuple[Run, int, Holder | None]:
    if alias := _ALIAS.fullmatch(reference):
        holder = find_holder(entries, the_model(entries, alias["model"]), alias["alias"], place)
        return run_of(holder, place.workspace), holder.iteration, holder
    run, iteration = find_policy(place.workspace, reference, place.tracking_uri)
    if iteration is None:
        iteration = view_run(run).best
    return run, BASE if iteration is None else iteration, None


def _write_plain(run: Run, policy: Policy, out: Path) -> None:
    """An adapter and its base as one checkpoint; full weights as they are."""
    if policy.base is None:
        shutil.copytree(policy.path, out, copy_function=shutil.copyfile)
    else:
        backend(run.config.policy.type).merge(policy, run.config.policy, out)
