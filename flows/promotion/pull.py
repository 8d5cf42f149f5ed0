"""Copy a model out for serving, every file verified: a transformers folder, or the table of a tabular policy."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from flows.models import find_policy
from flows.promotion.promote import Place, ask_witnesses, refuse_withdrawn, run_of, weights_kept
from flows.promotion.rollback import find_holder, the_model, weights
from raft_core.errors import InputError
from raft_core.policies.tabular.backend import TABLE
from raft_core.promotion.ledger import Entry, Holder
from raft_core.records.overview import view_run
from raft_core.records.run import BASE, Run
from tasks.promotion.plain_folder import write_plain

_ALIAS = re.compile(r"(?:(?P<model>[^@]+)@)?(?P<alias>champion|previous)")


def pull(reference: str, out: Path, place: Place) -> dict[str, object]:
    """Write the model that ``reference`` means to ``out``, which appears whole; returns its manifest.

    ``reference``: champion, previous, MODEL@champion (the ledger says which one that is), or RUN@N.
    Weights that lie elsewhere are restored from DVC. Raises InputError if ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists", hint="name a folder that does not")
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
    run, iteration, holder = _find(entries, reference, place)
    refuse_withdrawn(entries, run, iteration)
    policy = weights(run, iteration, place)
    ask_witnesses(place, run, iteration)  # the pointers of bytes that are as committed
    return write_plain(run, iteration, policy, out, entry=holder.entry if holder else None)


def _find(entries: list[Entry], reference: str, place: Place) -> tuple[Run, int, Holder | None]:
    if alias := _ALIAS.fullmatch(reference):
        holder = find_holder(entries, the_model(entries, alias["model"]), alias["alias"], place)
        return run_of(holder, place.workspace), holder.iteration, holder
    run, iteration = find_policy(place.workspace, reference, place.tracking_uri)
    if iteration is None:
        iteration = view_run(run).best
    return run, BASE if iteration is None else iteration, None
