"""Copy a model out for serving, every file verified: a transformers folder, or the table of a tabular policy."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from flows.models import find_policy
from flows.promotion.promote import Place, ask_witnesses, find_named, refuse_withdrawn, weights_kept
from flows.promotion.rollback import find_champion, the_model, weights
from raft_core.errors import InputError
from raft_core.policies.tabular.backend import TABLE
from raft_core.promotion.ledger import Entry, NamedPolicy
from raft_core.records.overview import view_run
from raft_core.records.policy_ref import PolicyRef, policy_ref
from raft_core.records.run import BASE
from tasks.promotion.plain_folder import write_plain

_ALIAS = re.compile(r"(?:(?P<model>[^@]+)@)?(?P<alias>champion|previous)")


def pull(reference: str, out: Path, place: Place) -> dict[str, object]:
    """Write the model that ``reference`` names to the new folder ``out``; returns its manifest, ``raft.json``.

    ``reference``: champion, previous, MODEL@champion (as the ledger has it), or RUN@N. Weights that are not on this
    machine are restored from DVC. ``out`` appears only once it is complete. Raises InputError if ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out} already exists", expected="a folder that does not exist yet", hint="name a new folder")
    with weights_kept(place):
        return _pull(reference, out, place)


def kind_of(manifest: Mapping[str, object]) -> str:
    """What the pulled folder is, by its files, so that nobody tries to load it with the wrong library."""
    files = cast(Mapping[str, str], manifest["files"])
    if TABLE in files:
        return "a table of probabilities (tabular policy), not a transformers model"
    return "a transformers folder"


def _pull(reference: str, out: Path, place: Place) -> dict[str, object]:
    entries = place.ledger.entries()
    ref, named = _find(entries, reference, place)
    refuse_withdrawn(entries, ref)
    policy = weights(ref, place)
    ask_witnesses(place, ref)  # after the weights are here: DVC's pointers are compared too
    return write_plain(ref, policy, out, entry=named.entry if named else None)


def _find(entries: list[Entry], reference: str, place: Place) -> tuple[PolicyRef, NamedPolicy | None]:
    if alias := _ALIAS.fullmatch(reference):
        named = find_champion(entries, the_model(entries, alias["model"]), alias["alias"], place)
        return find_named(named, place.workspace), named
    run, iteration = find_policy(place.workspace, reference, place.tracking_uri)
    if iteration is None:
        iteration = view_run(run).best
    return policy_ref(run, BASE if iteration is None else iteration), None
