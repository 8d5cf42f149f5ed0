"""Validation: Great Expectations checks every table between the steps, so nothing trains on unchecked data.

A row that fails a row check is copied to the quarantine table with its reason, counted, and not trained on. A table
that fails a set check stops the run; the report gives the limits, the observed values and the first failing rows.
The tables are deterministic; Great Expectations' own output is in ``TableCheck.raw``, for the event log.
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
from tasks.validation.gx_results import GxFrame, GxResults, run
from tasks.validation.quarantine import TableCheck, apply_quarantine, table_check

__all__ = ["TableCheck", "apply_quarantine", "validate_samples", "validate_scored", "validate_selected"]


def validate_samples(
    samples: pa.Table, prompts: pa.Table, config: RaftConfig, previous: Measures | None = None
) -> TableCheck:
    """Check a SAMPLES table, rows of every status, against the PROMPTS that were drawn.

    ``previous`` is None in the first iteration, where drift and surge are not checked.
    """
    fields = _fields("samples", samples)
    if not fields.passed:
        return table_check("samples", samples, fields)
    rows = gx_frames.sample_rows(samples, prompts)
    ok = rows[rows["status"] == "ok"]
    single = run(
        expectations.samples_row_suite(config),
        {"rows": GxFrame(ok, samples["sample_id"]), "texts": _texts(samples, ok, config)},
        complete=True,
    )
    rows["quarantined"] = _quarantined(rows, single)
    now, before = gx_frames.text_measures(samples, config), previous.samples if previous else None
    joint = run(
        expectations.samples_set_suite(config, prompts.num_rows, before),
        {
            "rows": GxFrame(rows, samples["sample_id"]),
            "prompts": GxFrame(gx_frames.sampled_prompts(rows, prompts.num_rows), prompts["prompt_id"]),
            **_characters(now, before),
        },
    )
    return table_check("samples", samples, fields + single + joint, asdict(now))


def validate_scored(scored: pa.Table, samples: pa.Table, config: RaftConfig) -> TableCheck:
    """Check a SCORED table against the SAMPLES that were scored."""
    fields = _fields("scored", scored)
    if not fields.passed:
        return table_check("scored", scored, fields)
    rows = gx_frames.scored_rows(scored, samples)
    ok = rows[rows["status"] == "ok"]
    single = run(expectations.scored_row_suite(config), {"rows": GxFrame(ok, scored["sample_id"])}, complete=True)
    rows["quarantined"] = _quarantined(rows, single)
    joint = run(
        expectations.scored_set_suite(config, samples.num_rows),
        {
            "rows": GxFrame(rows, scored["sample_id"]),
            "prompts": GxFrame(gx_frames.scored_prompts(rows, config.selection), pc.unique(scored["prompt_id"])),
        },
    )
    mean = rows.loc[~rows["quarantined"], "reward"].mean()
    return table_check(
        "scored", scored, fields + single + joint, {"mean_reward": float(mean) if np.isfinite(mean) else None}
    )


def validate_selected(
    selected: pa.Table,
    prompts: pa.Table,
    held_out_ids: Collection[str],
    config: RaftConfig,
    previous: Measures | None = None,
) -> TableCheck:
    """Check a SELECTED table. Every failure stops the run, since the next step trains on the table."""
    fields = _fields("selected", selected)
    if not fields.passed:
        return table_check("selected", selected, fields)
    rows = gx_frames.selected_rows(selected, prompts)
    by_prompt = gx_frames.selected_prompts(rows, prompts, held_out_ids)
    now, before = gx_frames.text_measures(selected, config), previous.selected if previous else None
    joint = run(
        expectations.selected_suite(config, before),
        {
            "rows": GxFrame(rows, selected["sample_id"]),
            "texts": _texts(selected, rows, config),
            "prompts": GxFrame(by_prompt, prompts["prompt_id"]),
            "selected_prompts": GxFrame(by_prompt[by_prompt["num_selected"] > 0], prompts["prompt_id"]),
            **_characters(now, before),
        },
    )
    return table_check("selected", selected, fields + joint, asdict(now))


def _fields(stage: str, table: pa.Table) -> GxResults:
    data = gx_frames.field_rows(table)
    return run(expectations.fields_suite(stage), {"fields": GxFrame(data, pa.array(data["column"]))})


def _texts(table: pa.Table, rows: pd.DataFrame, config: RaftConfig) -> GxFrame:
    """The completions of ``rows``; empty if no pattern is configured, since frames of text are slow."""
    wanted = rows.index if config.validation.forbidden_pattern is not None else rows.index[:0]
    texts = table["completion"].take(pa.array(wanted, pa.int64())).to_pandas()
    return GxFrame(pd.DataFrame({"completion": texts.to_numpy()}, index=wanted), table["sample_id"])


def _characters(now: TextMeasures, before: TextMeasures | None) -> dict[str, GxFrame]:
    if before is None:
        return {}
    data = gx_frames.character_rows(now, before)
    return {"characters": GxFrame(data, pa.array(data["character"]))}


def _quarantined(rows: pd.DataFrame, single: GxResults) -> "pd.Series[bool]":
    """Which rows must not be trained on: those already quarantined, and those that failed a row check."""
    bad = (rows["status"] != "ok").to_numpy(dtype=bool, copy=True)
    for result in single.results:
        if result.level == "row":
            bad[np.asarray(result.labels, dtype=np.int64)] = True
    return pd.Series(bad, index=rows.index)
