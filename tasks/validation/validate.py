"""Validation: Great Expectations stands between the steps, so that nothing trains on what was not checked.

A row that fails is data: it goes to the quarantine table with its reason and is counted. A set that fails stops
the run, with a report that names the limits, what was seen, and the first rows that are to blame. The tables are
deterministic; what Great Expectations itself says is in ``Outcome.raw``, for the event log.
"""

from collections.abc import Collection
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raft_core.config.run import RaftConfig
from tasks.validation import expectations, gx_frames
from tasks.validation.gx_frames import Measures, TextMeasures
from tasks.validation.gx_results import Frame, Results, run
from tasks.validation.quarantine import Outcome, apply_quarantine, outcome_of

__all__ = ["Outcome", "apply_quarantine", "validate_samples", "validate_scored", "validate_selected"]


def validate_samples(
    samples: pa.Table, prompts: pa.Table, config: RaftConfig, previous: Measures | None = None
) -> Outcome:
    """Check a SAMPLES table, rows of every status, against the PROMPTS that were drawn.

    ``previous`` is None in the first iteration: drift and surge need something to compare with.
    """
    fields = _fields("samples", samples)
    if not fields.passed:
        return outcome_of("samples", samples, fields)
    rows = gx_frames.sample_rows(samples, prompts)
    ok = rows[rows["status"] == "ok"]
    single = run(
        expectations.samples_row_suite(config),
        {"rows": Frame(ok, samples["sample_id"]), "texts": _texts(samples, ok, config)},
        complete=True,
    )
    rows["quarantined"] = _quarantined(rows, single)
    now, before = gx_frames.text_measures(samples, config), previous.samples if previous else None
    joint = run(
        expectations.samples_set_suite(config, prompts.num_rows, before),
        {
            "rows": Frame(rows, samples["sample_id"]),
            "prompts": Frame(gx_frames.sampled_prompts(rows, prompts.num_rows), prompts["prompt_id"]),
            **_characters(now, before),
        },
    )
    return outcome_of("samples", samples, fields + single + joint, asdict(now))


def validate_scored(scored: pa.Table, samples: pa.Table, config: RaftConfig) -> Outcome:
    """Check a SCORED table against the SAMPLES that were scored."""
    fields = _fields("scored", scored)
    if not fields.passed:
        return outcome_of("scored", scored, fields)
    rows = gx_frames.scored_rows(scored, samples)
    ok = rows[rows["status"] == "ok"]
    single = run(expectations.scored_row_suite(config), {"rows": Frame(ok, scored["sample_id"])}, complete=True)
    rows["quarantined"] = _quarantined(rows, single)
    joint = run(
        expectations.scored_set_suite(config, samples.num_rows),
        {
            "rows": Frame(rows, scored["sample_id"]),
            "prompts": Frame(gx_frames.scored_prompts(rows, config.selection), pc.unique(scored["prompt_id"])),
        },
    )
    mean = rows.loc[~rows["quarantined"], "reward"].mean()
    return outcome_of(
        "scored", scored, fields + single + joint, {"mean_reward": float(mean) if np.isfinite(mean) else None}
    )


def validate_selected(
    selected: pa.Table,
    prompts: pa.Table,
    held_out_ids: Collection[str],
    config: RaftConfig,
    previous: Measures | None = None,
) -> Outcome:
    """Check a SELECTED table: whatever fails here stops the run, since the next step trains on it."""
    fields = _fields("selected", selected)
    if not fields.passed:
        return outcome_of("selected", selected, fields)
    rows = gx_frames.selected_rows(selected, prompts)
    by_prompt = gx_frames.selected_prompts(rows, prompts, held_out_ids)
    now, before = gx_frames.text_measures(selected, config), previous.selected if previous else None
    joint = run(
        expectations.selected_suite(config, before),
        {
            "rows": Frame(rows, selected["sample_id"]),
            "texts": _texts(selected, rows, config),
            "prompts": Frame(by_prompt, prompts["prompt_id"]),
            "selected_prompts": Frame(by_prompt[by_prompt["num_selected"] > 0], prompts["prompt_id"]),
            **_characters(now, before),
        },
    )
    return outcome_of("selected", selected, fields + joint, asdict(now))


def _fields(stage: str, table: pa.Table) -> Results:
    data = gx_frames.field_rows(table)
    return run(expectations.fields_suite(stage), {"fields": Frame(data, pa.array(data["column"]))})


def _texts(table: pa.Table, rows: pd.DataFrame, config: RaftConfig) -> Frame:
    """The completions of ``rows``; empty where no pattern is looked for, since frames of text are slow."""
    wanted = rows.index if config.validation.forbidden_pattern is not None else rows.index[:0]
    texts = table["completion"].take(pa.array(wanted, pa.int64())).to_pandas()
    return Frame(pd.DataFrame({"completion": texts.to_numpy()}, index=wanted), table["sample_id"])


def _characters(now: TextMeasures, before: TextMeasures | None) -> dict[str, Frame]:
    if before is None:
        return {}
    data = gx_frames.character_rows(now, before)
    return {"characters": Frame(data, pa.array(data["character"]))}


def _quarantined(rows: pd.DataFrame, single: Results) -> "pd.Series[bool]":
    """Which rows may not train: those that came quarantined and those that failed a check of their own."""
    bad = (rows["status"] != "ok").to_numpy(dtype=bool, copy=True)
    for finding in single.findings:
        if finding.level == "row":
            bad[np.asarray(finding.labels, dtype=np.int64)] = True
    return pd.Series(bad, index=rows.index)
