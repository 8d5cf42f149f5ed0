"""Rank (Algorithm 1, step 2): select the best of the valid, scored samples."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_core.errors import GateStop
from raft_core.records.pinned import check_pins
from raft_core.records.tables import PROMPTS, QUARANTINE, SAMPLES, SCORED, SELECTED, read_rows, read_table, write_table
from raft_core.selection.base import Candidates, ranking
from raft_core.selection.base import select as choose
from raft_core.selection.registry import selector_sources
from tasks.loop.iteration import Iteration


def select(it: Iteration) -> None:
    """Write ``selected``, the filtered set, ordered by prompt, best first.

    A prompt with fewer than ``validation.min_valid_per_prompt`` valid samples is dropped.
    Raises GateStop if nothing is left, since a policy is never trained on rejected samples.
    """
    prompts = read_table(it.table("prompts"), PROMPTS)
    scored = read_table(it.table("scored"), SCORED, ["sample_id", "prompt_id", "reward", "status"])
    quarantined = read_table(it.table("quarantine"), QUARANTINE, ["sample_id"])
    rows_N = valid_rows(scored, quarantined, it.config.validation.min_valid_per_prompt)
    valid = scored.take(pa.array(rows_N))
    candidates = Candidates(
        prompts_N=pc.index_in(valid["prompt_id"], prompts["prompt_id"]).to_numpy().astype(np.int64),
        rewards_N=valid["reward"].to_numpy(),
        sample_ids_N=valid["sample_id"].to_numpy().astype(np.str_),
    )
    check_pins(it.run, selector_sources(it.config.selection))
    selection = choose(candidates, it.config.selection, it.config.sampling.samples_per_prompt)
    kept = selection.indices_M
    if not len(kept):
        raise GateStop(
            f"no sample was selected in {it.label}",
            got=f"{len(rows_N)} valid samples of {len(scored)}",
            expected="at least one selected sample",
            hint=f"look at {it.table('scored')} and {it.table('quarantine').name}; relax the settings of `selection`",
        )
    facts = {
        "reward": pa.array(candidates.rewards_N[kept]),
        "rank": pa.array(ranks(candidates)[kept]),
        "weight": pa.array(selection.weights_M),
        "prompt": prompts["text"].take(pa.array(candidates.prompts_N[kept])),
    }
    carried = [name for name in SELECTED.names if name not in facts]
    samples = read_rows(it.table("samples"), SAMPLES, rows_N[kept], carried)
    columns = {name: facts[name] if name in facts else samples[name] for name in SELECTED.names}
    write_table(it.table("selected"), pa.table(columns), SELECTED)


def valid_rows(scored: pa.Table, quarantined: pa.Table, min_valid_per_prompt: int) -> NDArray[np.int64]:
    """Indices of the rows that may be ranked: scored, not quarantined, and from a prompt with enough such rows."""
    sound = pc.and_(
        pc.equal(scored["status"], "ok"), pc.invert(pc.is_in(scored["sample_id"], quarantined["sample_id"]))
    )
    rows_N = np.flatnonzero(sound.to_numpy())
    prompts_N = scored["prompt_id"].take(pa.array(rows_N)).combine_chunks().dictionary_encode().indices.to_numpy()
    counts_P = np.bincount(prompts_N) if len(rows_N) else np.zeros(0, np.int64)
    return np.asarray(rows_N[counts_P[prompts_N] >= min_valid_per_prompt], np.int64)


def ranks(candidates: Candidates) -> NDArray[np.int32]:
    """Each sample's rank among its prompt's valid samples; 1 is the best."""
    order = ranking(candidates)
    prompts = candidates.prompts_N[order]
    first = np.r_[True, prompts[1:] != prompts[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    result = np.empty(len(order), np.int32)
    result[order] = np.arange(len(order)) - start + 1
    return result
