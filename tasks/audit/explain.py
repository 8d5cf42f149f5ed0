"""Why a sample was selected or dropped: everything that the records say about it and the prompt's other samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raft_core.config.run import RaftConfig
from raft_core.errors import InputError
from raft_core.records.run import Run
from raft_core.records.tables import PROMPTS, QUARANTINE, SAMPLES, SCORED, SELECTED, VALIDATION, read_table
from raft_core.rewards.base import reward_name
from raft_core.selection.base import Candidates, Ranked
from tasks.loop.select import ranks, valid_rows


@dataclass(frozen=True, slots=True)
class Rival:
    """A sample of the same prompt. ``rank``: among the valid samples, 1 is the best; None: not ranked."""

    sample_id: str
    k: int
    source: str
    completion: str
    reward: float | None
    rank: int | None
    fate: str
    """"selected", "dropped" or "quarantined"."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One sample of one iteration. ``because``: the rule that decided, in a sentence."""

    run: str
    iteration: int
    prompt: Mapping[str, Any]
    sample: Mapping[str, Any]
    reward: float | None
    components: Mapping[str, float]
    weights: Mapping[str, float]
    rank: int | None
    fate: str
    because: str
    quarantine: tuple[Mapping[str, Any], ...]
    failed_checks: tuple[Mapping[str, Any], ...]
    """Checks of the iteration that failed, on rows or on the whole set."""
    rivals: tuple[Rival, ...]
    """All samples of the prompt, this one included, best first."""


FACTS = ["sample_id", "prompt_id", "k", "seed", "completion", "finish_reason", "source", "status", "reason"]


def explain(run: Run, iteration: int, sample_id: str) -> Explanation:
    """Explain what happened to ``sample_id``. Raises InputError if it is not a sample of ``iteration``."""
    tables = {
        name: read_table(run.table(iteration, name), schema)
        for name, schema in (("scored", SCORED), ("quarantine", QUARANTINE), ("validation", VALIDATION))
    }
    scored, quarantine = tables["scored"], tables["quarantine"]
    row = pc.index(scored["sample_id"], sample_id).as_py()
    samples = read_table(run.table(iteration, "samples"), SAMPLES, FACTS)
    if row < 0 or pc.index(samples["sample_id"], sample_id).as_py() < 0:
        raise InputError(
            f"iteration {iteration} of run {run.name} has no sample {sample_id}",
            hint=f"raft lineage find --sample {sample_id} shows which iteration has it",
        )
    prompt_id = scored["prompt_id"][row].as_py()
    own = {row["sample_id"]: row for row in samples.filter(pc.equal(samples["prompt_id"], prompt_id)).to_pylist()}
    selected = read_table(run.table(iteration, "selected"), SELECTED, ["sample_id", "prompt_id", "reward"])
    rivals = _rivals(tables, own, prompt_id, selected)
    me = next(rival for rival in rivals if rival.sample_id == sample_id)
    prompts = read_table(run.table(iteration, "prompts"), PROMPTS)
    caught = quarantine.filter(pc.equal(quarantine["sample_id"], sample_id)).to_pylist()
    facts = scored.slice(row, 1).to_pylist()[0]
    rewards = run.config.scoring.rewards
    return Explanation(
        run.name,
        iteration,
        prompt=prompts.filter(pc.equal(prompts["prompt_id"], prompt_id)).to_pylist()[0],
        sample=own[sample_id],
        reward=facts["reward"],
        components={c["name"]: c["score"] for c in facts["components"]},
        weights={reward_name(reward): reward.weight for reward in rewards},
        rank=me.rank,
        fate=me.fate,
        because=_because(run.config, me, rivals, selected, [*caught, *_own_fault(facts)]),
        quarantine=tuple(caught),
        failed_checks=tuple(r for r in tables["validation"].to_pylist() if not r["passed"]),
        rivals=rivals,
    )


def _rivals(
    tables: Mapping[str, pa.Table], samples: Mapping[str, Mapping[str, Any]], prompt_id: str, selected: pa.Table
) -> tuple[Rival, ...]:
    """The samples of the prompt (``samples``: by id), ranked as ``tasks.loop.select`` ranks them.

    Ranks are within a prompt, so the prompt's own samples are enough.
    """
    scored = tables["scored"]
    own = scored.filter(pc.equal(scored["prompt_id"], prompt_id))
    valid = valid_rows(own, tables["quarantine"], 1)
    rank: dict[str, int] = {}
    if len(valid):
        ids = own["sample_id"].take(pa.array(valid)).to_pylist()
        rewards = own["reward"].take(pa.array(valid)).to_numpy()
        candidates = Candidates(np.zeros(len(valid), np.int64), rewards, np.asarray(ids, np.str_))
        rank = dict(zip(ids, map(int, ranks(candidates)), strict=True))
    chosen = set(selected["sample_id"].to_pylist())
    rivals = [
        Rival(
            row["sample_id"],
            row["k"],
            row["source"],
            samples[row["sample_id"]]["completion"],
            row["reward"],
            rank.get(row["sample_id"]),
            "selected" if row["sample_id"] in chosen else "dropped" if row["sample_id"] in rank else "quarantined",
        )
        for row in own.to_pylist()
        if row["sample_id"] in samples
    ]
    return tuple(sorted(rivals, key=lambda r: (r.rank is None, r.rank or 0, r.k)))


def _own_fault(scored: Mapping[str, Any]) -> list[dict[str, Any]]:
    if scored["status"] == "ok":
        return []
    return [{"stage": "scored", "check": "scoring", "reason": scored["reason"]}]


def _because(
    config: RaftConfig, me: Rival, rivals: tuple[Rival, ...], selected: pa.Table, faults: list[Mapping[str, Any]]
) -> str:
    if me.rank is None:
        fault = faults[0] if faults else {"stage": "?", "check": "?", "reason": "no reason is recorded"}
        return f"quarantined at {fault['stage']} by {fault['check']}: {fault['reason']}"
    num_valid = sum(rival.rank is not None for rival in rivals)
    needed = config.validation.min_valid_per_prompt
    if num_valid < needed:
        return (
            f"every sample of its prompt was dropped: {num_valid} are valid, and validation.min_valid_per_prompt is "
            f"{needed}"
        )
    place = f"rank {me.rank} of {num_valid} valid samples of its prompt"
    best = rivals[0].reward
    assert me.reward is not None, "a ranked sample has a reward"
    assert best is not None
    ranked = Ranked(
        me.rank,
        num_valid,
        me.reward,
        best,
        min(selected["reward"].to_pylist(), default=None),
        config.sampling.samples_per_prompt,
    )
    return f"{place}; {config.selection.explain(ranked)}"
