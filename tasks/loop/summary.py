"""What each step of an iteration did, as one plain line for logs. Reads the tables that the step wrote."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raft_core.records.tables import SCORED, SELECTED, read_table
from tasks.loop.decide import read_report
from tasks.loop.finetune import read_result
from tasks.loop.iteration import Iteration
from tasks.validation.quarantine import TableCheck


def sampled(it: Iteration) -> str:
    """Completions, prompts and the mean length in tokens. Reads the samples batch by batch."""
    count = tokens = 0
    with pq.ParquetFile(it.table("samples")) as table:
        for batch in table.iter_batches(columns=["completion_token_ids"]):
            count += batch.num_rows
            tokens += pc.sum(pc.list_value_length(batch.column(0))).as_py() or 0
    each = it.config.sampling.samples_per_prompt
    mean = f", mean length {tokens / count:.0f} tokens" if count else ""
    return f"sampled {count} completions of {count // each} prompts ({each} each){mean}"


def scored(it: Iteration) -> str:
    """Scored samples, those without a score, and the mean reward."""
    table = read_table(it.table("scored"), SCORED, ["reward", "status"])
    ok = pc.sum(pc.equal(table["status"], "ok")).as_py() or 0
    mean = pc.mean(table["reward"]).as_py()
    reward = "" if mean is None else f", mean reward {mean:.4g}"
    return f"scored {ok} of {table.num_rows} samples{reward}; {table.num_rows - ok} without a score"


def validated(checked: TableCheck) -> str:
    """Checks, failed ones, and quarantined rows."""
    failed = checked.checks.num_rows - (pc.sum(checked.checks["passed"]).as_py() or 0)
    outcome = f"{failed} failed" if failed else "all passed"
    return (
        f"validated the {checked.suite} table: {checked.checks.num_rows} checks, {outcome}; "
        f"{checked.quarantine.num_rows} entries in quarantine"
    )


def selected(it: Iteration) -> str:
    """Selected samples, their prompts and their mean reward."""
    table = read_table(it.table("selected"), SELECTED, ["prompt_id", "reward"])
    prompts, mean = pc.count_distinct(table["prompt_id"]).as_py(), pc.mean(table["reward"]).as_py()
    return f"selected {table.num_rows} samples of {prompts} prompts, mean reward {mean:.4g}"


def finetuned(it: Iteration) -> str:
    """Optimiser steps, tokens, and the first and last loss."""
    result = read_result(it)
    losses = [row["loss"] for row in result.log if row.get("loss") is not None]
    change = f", loss {losses[0]:.4g} → {losses[-1]:.4g}" if losses else ""
    return f"fine-tuned with {len(result.log)} optimiser steps on {result.num_tokens} tokens{change}"


def evaluated(report: dict[str, object]) -> str:
    """The held-out reward with its interval, and the perplexity."""

    def shown(name: str) -> str:
        value = report.get(name)
        return f"{value:.4g}" if isinstance(value, int | float) and np.isfinite(value) else "-"

    interval = f"{shown('reward')} ({shown('reward_low')} to {shown('reward_high')})"
    return f"evaluated on held-out prompts: reward {interval}, perplexity {shown('perplexity')}"


def committed(it: Iteration) -> str:
    """The iteration, its reward and its folder."""
    report = read_report(it.run, it.number)
    return f"committed {it.label} in {it.folder}; {evaluated(report)}"
