"""The Great Expectations suites of the three stages, built from ``ValidationConfig``.

A suite maps each frame of ``tasks.validation.gx_frames`` to the expectations on it. Each carries in ``meta``

    check      its name in the VALIDATION table
    level      "row": each failing row is quarantined; "set": a failure stops the run
    expected   the limit in words
    key        the configuration key of the limit, if there is one

Three properties of Great Expectations shape them: null passes every comparison, so required columns have a check of
their own; an empty frame passes every row check, so rows are counted; a share is ``mostly``, the share that passes.
Selected rows have passed the checks of samples and scores before: a failure among them is a bug, and stops the run.
"""

from typing import Any, Literal

import great_expectations.expectations as gxe
import numpy as np
import pyarrow as pa

from raft_core.config.run import RaftConfig
from raft_core.records import tables
from tasks.validation.gx_frames import TextMeasures

Level = Literal["row", "set"]
Suite = dict[str, list[Any]]
"""Frame → expectations on it."""

LARGEST = float(np.finfo(np.float64).max)
FIELDS = {"samples": tables.SAMPLES, "scored": tables.SCORED, "selected": tables.SELECTED}


def fields_suite(stage: str) -> Suite:
    """Columns and types of a stage's table; the other checks need them to be right."""
    schema: pa.Schema = FIELDS[stage]
    pairs = [(name, str(kind)) for name, kind in zip(schema.names, schema.types, strict=True)]
    return {
        "fields": [
            gxe.ExpectColumnDistinctValuesToEqualSet(
                column="column", value_set=schema.names, meta=_meta("columns", "set", ", ".join(schema.names))
            ),
            gxe.ExpectColumnPairValuesToBeInSet(
                column_A="column",
                column_B="type",
                value_pairs_set=pairs,
                meta=_meta("types", "set", "the column types of the table's schema"),
            ),
        ]
    }


def samples_row_suite(config: RaftConfig) -> Suite:
    """Checks on single samples."""
    return {
        "rows": [
            _within("empty_prompt", "row", "num_prompt_tokens", "at least 1 token", low=1),
            *_completion("row", config),
            _equal("logprobs_per_token", "row", "num_logprobs", "num_tokens"),
        ],
        "texts": _forbidden("row", config),
    }


def samples_set_suite(config: RaftConfig, num_prompts: int, before: TextMeasures | None) -> Suite:
    """Checks on all samples of an iteration together."""
    limits, per_prompt = config.validation, config.sampling.samples_per_prompt
    return {
        "rows": [
            _row_count(num_prompts * per_prompt, None),
            *_identities("one of the iteration's prompts"),
            _share(
                "stop_share",
                "finish_reason",
                f"stop in at least {limits.min_stop_share:.4g} of the samples",
                limits.min_stop_share,
                "min_stop_share",
                values=["stop"],
            ),
            _share(
                "duplicate_share",
                "copies",
                f"at most {limits.max_duplicate_share:.4g} of the samples repeat a completion of their prompt",
                1 - limits.max_duplicate_share,
                "max_duplicate_share",
                values=[1],
            ),
            *_quarantined(config),
            *_length_drift(config, before),
        ],
        "prompts": [
            _within(
                "samples_per_prompt",
                "set",
                "num_samples",
                f"{per_prompt} samples per prompt, of any status",
                low=per_prompt,
                high=per_prompt,
            )
        ],
        "characters": _surge(config),
    }


def scored_row_suite(config: RaftConfig) -> Suite:
    """Checks on single rewards."""
    return {"rows": _reward("row", config)}


def scored_set_suite(config: RaftConfig, num_samples: int) -> Suite:
    """Checks on all rewards of an iteration together."""
    limits = config.validation
    return {
        "rows": [_row_count(num_samples, num_samples), *_identities("the prompt of its sample"), *_quarantined(config)],
        "prompts": [
            _share(
                "usable_prompts",
                "num_valid",
                f"at least {limits.min_valid_per_prompt} valid samples "
                f"for at least {limits.min_prompt_coverage:.4g} of the prompts",
                limits.min_prompt_coverage,
                "min_prompt_coverage",
                low=limits.min_valid_per_prompt,
            ),
            _share(
                "tie_share",
                "best_shared_by",
                f"at most {limits.max_tie_share:.4g} of the prompts have several best samples",
                1 - limits.max_tie_share,
                "max_tie_share",
                high=1,
            ),
            _share(
                "signal_share",
                "signal",
                f"rewards differ between the samples of at least {limits.min_signal_share:.4g} of the prompts",
                limits.min_signal_share,
                "min_signal_share",
                values=[True],
            ),
        ],
    }


def selected_suite(config: RaftConfig, before: TextMeasures | None) -> Suite:
    """Checks on the rows that the next policy is trained on."""
    limits = config.validation
    return {
        "rows": [
            _row_count(1, None),
            *_identities("one of the iteration's prompts"),
            *_reward("set", config),
            *_required("set", "weight", "rank"),
            _within("weight_positive", "set", "weight", "above 0 and finite", low=0, high=LARGEST, strict_low=True),
            _within("rank_range", "set", "rank", "at least 0", low=0),
            _within("empty_prompt", "set", "num_prompt_tokens", "at least 1 token", low=1),
            *_completion("set", config),
            *_length_drift(config, before),
        ],
        "texts": _forbidden("set", config),
        "prompts": [
            _share(
                "prompt_coverage",
                "num_selected",
                f"at least 1 selected sample for at least {limits.min_prompt_coverage:.4g} of the prompts",
                limits.min_prompt_coverage,
                "min_prompt_coverage",
                low=1,
            )
        ],
        "selected_prompts": [
            _share(
                "held_out_overlap",
                "held_out",
                f"at most {limits.max_held_out_overlap:.4g} of the selected prompts are held out",
                1 - limits.max_held_out_overlap,
                "max_held_out_overlap",
                values=[False],
            )
        ],
        "characters": _surge(config),
    }


def _completion(level: Level, config: RaftConfig) -> list[Any]:
    least, most = config.validation.min_completion_chars, config.sampling.max_new_tokens
    return [
        *_required(level, "completion_chars", "num_tokens", "finish_reason"),
        gxe.ExpectColumnValuesToBeInSet(
            column="finish_reason", value_set=["stop", "length"], meta=_meta("finish_reason", level, "stop or length")
        ),
        _within(
            "completion_chars",
            level,
            "completion_chars",
            f"at least {least} characters besides white space",
            key="min_completion_chars",
            low=least,
        ),
        _within("num_tokens", level, "num_tokens", f"1 to {most}", low=1, high=most),
        _equal("sampling_logprobs_per_token", level, "num_sampling_logprobs", "num_tokens"),
        _within("logprobs_valid", level, "bad_logprobs", "only finite log-probabilities of at most 0", low=0, high=0),
    ]


def _reward(level: Level, config: RaftConfig) -> list[Any]:
    low, high = config.validation.reward_min, config.validation.reward_max
    checks = [
        *_required(level, "reward"),
        _within("reward_finite", level, "reward", "a finite number", low=-LARGEST, high=LARGEST),
    ]
    if low is not None:
        checks.append(_within("reward_min", level, "reward", f"at least {low:.6g}", key="reward_min", low=low))
    if high is not None:
        checks.append(_within("reward_max", level, "reward", f"at most {high:.6g}", key="reward_max", high=high))
    return checks


def _identities(prompt: str) -> list[Any]:
    return [
        gxe.ExpectColumnValuesToNotBeNull(
            column="sample", meta=_meta("sample_known", "set", "a sample of this iteration")
        ),
        gxe.ExpectColumnValuesToBeUnique(column="sample", meta=_meta("sample_unique", "set", "each sample once")),
        gxe.ExpectColumnValuesToNotBeNull(column="prompt", meta=_meta("prompt_known", "set", prompt)),
    ]


def _quarantined(config: RaftConfig) -> list[Any]:
    most = config.validation.max_quarantined_share
    return [
        _share(
            "quarantined_share",
            "quarantined",
            f"at most {most:.4g} of the samples quarantined",
            1 - most,
            "max_quarantined_share",
            values=[False],
        ),
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="quarantined", value_set=[False], meta=_meta("any_valid", "set", "at least 1 valid sample")
        ),
    ]


def _length_drift(config: RaftConfig, before: TextMeasures | None) -> list[Any]:
    if before is None or not before.mean_length:
        return []
    factor, mean = config.validation.max_length_drift, before.mean_length
    words = f"a mean of {mean / factor:.4g} to {mean * factor:.4g} tokens (previous iteration: {mean:.4g})"
    return [
        gxe.ExpectColumnMeanToBeBetween(
            column="length",
            min_value=mean / factor,
            max_value=mean * factor,
            meta=_meta("length_drift", "set", words, "max_length_drift"),
        )
    ]


def _forbidden(level: Level, config: RaftConfig) -> list[Any]:
    pattern, most = config.validation.forbidden_pattern, config.validation.max_forbidden_share
    if pattern is None:
        return []
    meta = _meta("forbidden_pattern", level, f"no match of {pattern!r}", "forbidden_pattern")
    each = gxe.ExpectColumnValuesToNotMatchRegex(column="completion", regex=pattern, meta=meta)
    if level == "set":
        return [each]
    words = f"at most {most:.4g} of the completions match {pattern!r}"
    share = gxe.ExpectColumnValuesToNotMatchRegex(
        column="completion",
        regex=pattern,
        mostly=_rounded(1 - most),
        meta=_meta("forbidden_share", "set", words, "max_forbidden_share"),
    )
    return [each, share]


def _surge(config: RaftConfig) -> list[Any]:
    most = config.validation.max_surge
    words = f"the share of each watched character rises by at most {most:.4g} since the previous iteration"
    return [_within("character_surge", "set", "rise", words, key="max_surge", high=most)]


def _required(level: Level, *columns: str) -> list[Any]:
    return [
        gxe.ExpectColumnValuesToNotBeNull(column=column, meta=_meta(f"{column}_present", level, "not null"))
        for column in columns
    ]


def _row_count(low: int, high: int | None) -> Any:
    words = f"{low}" if low == high else f"at least {low}"
    return gxe.ExpectTableRowCountToBeBetween(
        min_value=max(low, 1), max_value=high, meta=_meta("row_count", "set", words)
    )


def _within(
    check: str,
    level: Level,
    column: str,
    words: str,
    *,
    key: str | None = None,
    low: float | None = None,
    high: float | None = None,
    strict_low: bool = False,
) -> Any:
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, strict_min=strict_low, meta=_meta(check, level, words, key)
    )


def _equal(check: str, level: Level, column: str, other: str) -> Any:
    return gxe.ExpectColumnPairValuesToBeEqual(
        column_A=column, column_B=other, meta=_meta(check, level, f"as many as {other}")
    )


def _share(
    check: str,
    column: str,
    words: str,
    mostly: float,
    key: str,
    *,
    values: list[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    meta = _meta(check, "set", words, key)
    if values is not None:
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values, mostly=_rounded(mostly), meta=meta)
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, mostly=_rounded(mostly), meta=meta
    )


def _rounded(share: float) -> float:
    """In floating point 1 − 0.7 is a little above 0.3, and would reject 3 of 10."""
    return round(share, 12)


def _meta(check: str, level: Level, expected: str, key: str | None = None) -> dict[str, Any]:
    return {"check": check, "level": level, "expected": expected, "key": f"validation.{key}" if key else None}
