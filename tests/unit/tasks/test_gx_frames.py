"""The frames that the suites look at, against slow and plain computations."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft_core.config.run import RaftConfig
from raft_core.records import tables
from raft_core.selection.best_of_k import BestOfK
from raft_core.types import Prompt
from tasks.validation import gx_frames
from tasks.validation.gx_frames import TextMeasures

CONFIG = RaftConfig.model_validate(
    {
        "name": "frames",
        "policy": {"model": "somewhere"},
        "prompts": {"train": "prompts.txt"},
        "scoring": {"rewards": [{"type": "lexicon"}]},
        "validation": {"surge_characters": "#@é"},
    }
)
PROMPTS = [Prompt("p0", "first"), Prompt("p1", "second"), Prompt("p2", "third")]
PROMPTS_TABLE = tables.to_table(tables.PROMPTS, PROMPTS)


def sample(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "sample_id": f"s{number}",
        "prompt_id": "p0",
        "k": 0,
        "seed": 0,
        "completion": " fine",
        "prompt_token_ids": [1],
        "completion_token_ids": [2, 3],
        "logprobs": [-1.0, -2.0],
        "sampling_logprobs": [-1.0, -2.0],
        "finish_reason": "stop",
        "source": "policy",
        "status": "ok",
        "reason": "",
        **changes,
    }


def rows_of(*rows: dict[str, Any]) -> pd.DataFrame:
    return gx_frames.sample_rows(tables.to_table(tables.SAMPLES, rows), PROMPTS_TABLE)


def test_a_sample_as_numbers() -> None:
    row = rows_of(sample(0, prompt_id="p2", completion="\t fine \n", logprobs=[math.nan, 0.1])).iloc[0].to_dict()
    assert row["prompt"] == 2
    assert row["completion_chars"] == 4
    assert (row["num_tokens"], row["num_logprobs"], row["num_prompt_tokens"], row["length"]) == (2, 2, 1, 2.0)
    assert row["bad_logprobs"] == 2


def test_an_unknown_prompt_is_null() -> None:
    assert rows_of(sample(0, prompt_id="elsewhere"))["prompt"].isna().all()


@given(st.lists(st.tuples(st.sampled_from(["p0", "p1"]), st.sampled_from(["a", "b", "", " a"])), min_size=1))
@settings(max_examples=50)
def test_copies_are_counted_within_their_prompt(pairs: list[tuple[str, str]]) -> None:
    rows = rows_of(*(sample(i, prompt_id=p, completion=text) for i, (p, text) in enumerate(pairs)))
    counts = Counter(pairs)
    assert rows["copies"].tolist() == [counts[pair] for pair in pairs]


@given(
    st.lists(
        st.tuples(st.sampled_from(["p0", "p1", "p2"]), st.sampled_from([0.0, 0.5, 1.0, None]), st.booleans()),
        min_size=1,
    )
)
@settings(max_examples=50)
def test_valid_samples_and_ties_of_each_prompt(drawn: list[tuple[str, float | None, bool]]) -> None:
    rows = pd.DataFrame(
        {
            "prompt": pd.factorize(pd.Series([prompt for prompt, _, _ in drawn]))[0],
            "reward": pd.Series([reward for _, reward, _ in drawn], dtype="float64"),
            "quarantined": [bad or reward is None for _, reward, bad in drawn],
        }
    )
    found = gx_frames.scored_prompts(rows, BestOfK())
    for code, prompt in enumerate(dict.fromkeys(prompt for prompt, _, _ in drawn)):
        valid = [reward for p, reward, bad in drawn if p == prompt and reward is not None and not bad]
        assert found.loc[code, "num_valid"] == len(valid)
        shared = found.loc[code, "best_shared_by"]
        assert np.isnan(shared) if not valid else shared == valid.count(max(valid))
        signal = found.loc[code, "signal"]
        assert pd.isna(signal) if not valid else signal == (len(set(valid)) > 1)


def test_prompts_without_samples_count_as_zero() -> None:
    rows = rows_of(sample(0), sample(1), sample(2, prompt_id="p2"), sample(3, source="teacher"))
    assert gx_frames.sampled_prompts(rows, len(PROMPTS))["num_samples"].tolist() == [2, 0, 1]


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_bad_entries_in_every_chunk(chunks: int) -> None:
    lists = [[-1.0], [], [math.inf, 0.5, -1.0], None, [math.nan], [0.0005]]
    size = len(lists) // chunks
    column = pa.chunked_array(
        [pa.array(lists[start : start + size], pa.list_(pa.float32())) for start in range(0, len(lists), size)]
    )
    assert gx_frames._bad_entries(column).tolist() == [0, 0, 2, 0, 1, 0]


def test_bulk_measures_by_hand() -> None:
    table = tables.to_table(
        tables.SAMPLES,
        [
            sample(0, completion="##é"),
            sample(1, completion="abcde", completion_token_ids=[1, 2, 3, 4], status="quarantined"),
            sample(2, completion="", completion_token_ids=[], finish_reason="error"),
        ],
    )
    assert gx_frames.text_measures(table, CONFIG) == TextMeasures(3.0, {"#": 0.25, "@": 0.0, "é": 0.125})


def test_no_completions_have_no_measures() -> None:
    empty = gx_frames.text_measures(tables.SAMPLES.empty_table(), CONFIG)
    assert empty == TextMeasures(None, {"#": 0.0, "@": 0.0, "é": 0.0})


def test_the_rise_of_a_character() -> None:
    rows = gx_frames.character_rows(TextMeasures(1.0, {"#": 0.3, "@": 0.1}), TextMeasures(1.0, {"#": 0.1}))
    assert rows["rise"].tolist() == pytest.approx([0.2, 0.1])


def test_selected_prompts_and_the_held_out_ones() -> None:
    rows = pd.DataFrame({"prompt": [0.0, 0.0, 2.0, math.nan]})
    found = gx_frames.selected_prompts(rows, PROMPTS_TABLE, {"p2", "elsewhere"})
    assert found["num_selected"].tolist() == [2, 0, 1]
    assert found["held_out"].tolist() == [False, False, True]
