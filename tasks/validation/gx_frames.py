"""The input of the suites: small pandas frames, computed from an iteration's tables.

Great Expectations hashes and copies the frames that it is given, so they hold numbers and short words: counts
instead of token ids, codes instead of identifiers; completions have a frame of their own. The index of a row frame
is the row's position in its table.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raft_core.config.run import RaftConfig
from raft_core.selection.base import Selector, tells_apart
from raft_core.types import POLICY_SOURCE

LOGPROB_TOLERANCE = 1e-3
"""A log-probability may exceed 0 by this much: rounding of a softmax in single precision."""


@dataclass(frozen=True, slots=True)
class TextMeasures:
    """Statistics of many completions. ``character_shares``: watched character → share of all characters."""

    mean_length: float | None
    """Tokens per completion; None if there is no completion."""
    character_shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measures:
    """The statistics that the next iteration's completions are compared with."""

    samples: TextMeasures
    selected: TextMeasures


def measures_of(samples: pa.Table, selected: pa.Table, config: RaftConfig) -> Measures:
    """The measures of a finished iteration, from its ``samples`` and ``selected`` tables."""
    return Measures(text_measures(samples, config), text_measures(selected, config))


def text_measures(table: pa.Table, config: RaftConfig) -> TextMeasures:
    """Mean length and shares of the watched characters over all rows, including quarantined ones.

    Rows whose sampling failed (finish reason "error") have no length.
    """
    mean = lengths(table).mean()
    completions = table["completion"]
    characters = pc.sum(pc.utf8_length(completions)).as_py() or 0
    shares = {}
    for character in sorted(set(config.validation.surge_characters)):
        found = pc.sum(pc.count_substring(completions, character)).as_py() or 0
        shares[character] = found / characters if characters else 0.0
    return TextMeasures(None if np.isnan(mean) else float(mean), shares)


def field_rows(table: pa.Table) -> pd.DataFrame:
    """One row per column of ``table``: its name and its Arrow type."""
    return pd.DataFrame({"column": table.schema.names, "type": [str(kind) for kind in table.schema.types]})


def sample_rows(samples: pa.Table, prompts: pa.Table) -> pd.DataFrame:
    """One row per sample. ``prompt``: position in ``prompts``, null for an unknown prompt."""
    prompt = _positions(samples["prompt_id"], prompts["prompt_id"])
    return pd.DataFrame(
        {
            "sample": _codes(samples["sample_id"]),
            "prompt": prompt,
            "own": pc.equal(samples["source"], POLICY_SOURCE).to_pandas(),
            "status": _words(samples["status"]),
            "copies": _copies(prompt, samples["completion"]),
            "num_prompt_tokens": _list_lengths(samples["prompt_token_ids"]),
            "num_logprobs": _list_lengths(samples["logprobs"]),
            "bad_logprobs": _bad_entries(samples["logprobs"]) + _bad_entries(samples["sampling_logprobs"]),
            **_completion_columns(samples),
        }
    )


def scored_rows(scored: pa.Table, samples: pa.Table) -> pd.DataFrame:
    """One row per scored sample. ``sample``: position in ``samples``, null if the sample there has another prompt."""
    position = pc.index_in(scored["sample_id"], samples["sample_id"].combine_chunks())
    same_prompt = pc.equal(samples["prompt_id"].take(position), scored["prompt_id"])
    return pd.DataFrame(
        {
            "sample": pc.if_else(same_prompt, position, None).to_pandas(),
            "prompt": _codes(scored["prompt_id"]),
            "status": _words(scored["status"]),
            "reward": scored["reward"].to_pandas(),
        }
    )


def selected_rows(selected: pa.Table, prompts: pa.Table) -> pd.DataFrame:
    """One row per selected sample."""
    return pd.DataFrame(
        {
            "sample": _codes(selected["sample_id"]),
            "prompt": _positions(selected["prompt_id"], prompts["prompt_id"]),
            "reward": selected["reward"].to_pandas(),
            "weight": selected["weight"].to_pandas(),
            "rank": selected["rank"].to_pandas(),
            "num_prompt_tokens": _list_lengths(selected["prompt_token_ids"]),
            "bad_logprobs": _bad_entries(selected["sampling_logprobs"]),
            **_completion_columns(selected),
        }
    )


def sampled_prompts(rows: pd.DataFrame, num_prompts: int) -> pd.DataFrame:
    """One row per prompt: how many samples of any status the policy drew for it."""
    known = rows.loc[rows["own"] & rows["prompt"].notna(), "prompt"]
    return pd.DataFrame({"num_samples": np.bincount(known.astype("int64"), minlength=num_prompts)})


def scored_prompts(rows: pd.DataFrame, selection: Selector) -> pd.DataFrame:
    """One row per prompt of ``rows``: its number of valid samples, how many of them share the best reward, and whether
    their rewards differ enough for ``selection`` to choose (null if no sample is valid)."""
    usable = rows[~rows["quarantined"]]
    best = usable.groupby("prompt")["reward"].transform("max")
    frame = pd.DataFrame(index=pd.Index(np.unique(rows["prompt"])))
    frame["num_valid"] = usable.groupby("prompt").size().reindex(frame.index, fill_value=0)
    frame["best_shared_by"] = usable[usable["reward"] == best].groupby("prompt").size().reindex(frame.index)
    differs = tells_apart(selection, usable["prompt"].to_numpy(), usable["reward"].to_numpy())
    frame["signal"] = pd.Series(differs, usable.index).groupby(usable["prompt"]).any().reindex(frame.index)
    return frame


def selected_prompts(rows: pd.DataFrame, prompts: pa.Table, held_out_ids: Collection[str]) -> pd.DataFrame:
    """One row per prompt of the iteration: its number of selected samples, and whether it is a held-out prompt."""
    known = rows.loc[rows["prompt"].notna(), "prompt"]
    held_out = pc.is_in(prompts["prompt_id"], pa.array(sorted(held_out_ids), pa.string()))
    return pd.DataFrame(
        {
            "num_selected": np.bincount(known.astype("int64"), minlength=prompts.num_rows),
            "held_out": held_out.to_pandas(),
        }
    )


def character_rows(now: TextMeasures, before: TextMeasures) -> pd.DataFrame:
    """One row per watched character: its share of all characters, and the rise since the previous iteration."""
    shares = now.character_shares
    return pd.DataFrame(
        {
            "character": list(shares),
            "share": list(shares.values()),
            "rise": [share - before.character_shares.get(name, 0.0) for name, share in shares.items()],
        }
    )


def lengths(table: pa.Table) -> "pd.Series[float]":
    """Number of tokens of every completion; null if sampling failed."""
    drawn = pc.not_equal(table["finish_reason"], "error")
    counts = pc.if_else(drawn, pc.list_value_length(table["completion_token_ids"]), None)
    result: pd.Series[float] = counts.to_pandas().astype("float64")
    return result


def _completion_columns(table: pa.Table) -> dict[str, Any]:
    return {
        "completion_chars": pc.utf8_length(pc.utf8_trim_whitespace(table["completion"])).to_pandas(),
        "num_tokens": _list_lengths(table["completion_token_ids"]),
        "num_sampling_logprobs": _list_lengths(table["sampling_logprobs"]),
        "finish_reason": _words(table["finish_reason"]),
        "length": lengths(table),
    }


def _words(column: pa.ChunkedArray) -> Any:
    """A column with few distinct words."""
    return column.to_pandas().astype("category")


def _codes(column: pa.ChunkedArray) -> Any:
    """A number per distinct value; null stays null."""
    codes_N: NDArray[np.int64] = pd.factorize(column.to_pandas())[0]
    codes = pd.Series(codes_N)
    return codes.mask(codes_N < 0)


def _positions(values: pa.ChunkedArray, among: pa.ChunkedArray) -> Any:
    """Position of each value's first occurrence in ``among``; null if there is none."""
    return pc.index_in(values, among.combine_chunks()).to_pandas()


def _list_lengths(column: pa.ChunkedArray) -> Any:
    return pc.list_value_length(column).to_pandas()


def _copies(prompt: "pd.Series[Any]", completions: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each sample, how many samples of its prompt have the same completion, itself included."""
    text, texts = pd.factorize(completions.to_pandas())
    both = prompt.fillna(-1).to_numpy("int64") * (len(texts) + 1) + text
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    return counts[inverse]


def _bad_entries(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """How many entries of each list are not log-probabilities: null, not finite, or above 0."""
    bad_N = np.zeros(len(column), dtype=np.int64)
    start = 0
    for chunk in column.chunks:
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        bad = ~(np.isfinite(values) & (values <= LOGPROB_TOLERANCE))
        if bad.any():
            parents = pc.list_parent_indices(chunk).to_numpy()[bad]
            bad_N[start : start + len(chunk)] = np.bincount(parents, minlength=len(chunk))
        start += len(chunk)
    return bad_N
