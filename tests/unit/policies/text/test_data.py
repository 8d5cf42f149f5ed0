"""What is learnt, in which order, on which rank."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_core.config.finetuning import FinetuningConfig
from raft_core.errors import StepError
from raft_core.policies.text.batches import collate, collate_packed
from raft_core.policies.text.data import micro_batches_per_step, num_steps, plan_steps, read_selected
from raft_core.records.tables import SELECTED, to_table, write_table


def row(**changes: Any) -> dict[str, Any]:
    return {
        "sample_id": "s",
        "prompt_id": "p",
        "source": "policy",
        "reward": 1.0,
        "rank": 0,
        "weight": 1.0,
        "prompt": "",
        "completion": "",
        "prompt_token_ids": [3, 4],
        "completion_token_ids": [5, 1],
        "sampling_logprobs": [-1.0, -1.0],
        "finish_reason": "stop",
        **changes,
    }


def selected(path: Path, *rows: dict[str, Any]) -> Path:
    write_table(path, to_table(SELECTED, rows), SELECTED)
    return path


def test_the_end_token_is_learnt_only_where_the_response_ended(tmp_path: Path) -> None:
    table = selected(
        tmp_path / "t.parquet",
        row(completion_token_ids=[5, 1], finish_reason="stop"),
        row(completion_token_ids=[5, 6], finish_reason="stop"),  # ended by a stop string: no end token is added
        row(completion_token_ids=[5, 6], finish_reason="length"),
        row(completion_token_ids=[5, 1], finish_reason="length"),  # cut there: it is not learnt
        row(completion_token_ids=[1], finish_reason="length"),  # nothing is left to learn
    )
    assert [s.completion for s in read_selected(table, frozenset([1, 2]))] == [(5, 1), (5, 6), (5, 6), (5,)]


def test_prompts_and_weights_come_as_they_are(tmp_path: Path) -> None:
    table = selected(tmp_path / "t.parquet", row(weight=0.25, prompt_token_ids=[1, 1, 7]))
    (sequence,) = read_selected(table, frozenset([1]))
    assert (sequence.prompt, sequence.weight, len(sequence)) == ((1, 1, 7), 0.25, 5)


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"t\.parquet"):
        read_selected(selected(tmp_path / "t.parquet"), frozenset([1]))


LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=70)
CONFIGS = st.builds(
    lambda ranks, micro, accumulated, epochs, batching: FinetuningConfig(
        ranks=ranks, micro_batch_size=micro, batch_size=ranks * micro * accumulated, epochs=epochs, batching=batching
    ),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from(["length_grouped", "packed"]),
)


@given(LENGTHS, CONFIGS, st.integers(0, 2**63 - 1))
def test_every_epoch_holds_every_sequence_once_and_ranks_take_the_same_steps(
    lengths: list[int], config: FinetuningConfig, seed: int
) -> None:
    steps = plan_steps(lengths, config, seed)
    assert len(steps) == num_steps(len(lengths), config)
    assert Counter(i for step in steps for rank in step for micro in rank for i in micro) == dict.fromkeys(
        range(len(lengths)), config.epochs
    )
    for step in steps:
        assert len(step) == config.ranks
        assert {len(rank) for rank in step} == {micro_batches_per_step(config)}
        assert all(len(micro) <= (config.micro_batch_size or 99) for rank in step for micro in rank)
        sizes = [sum(map(len, rank)) for rank in step]
        assert max(sizes) - min(sizes) <= 1
    assert plan_steps(lengths, config, seed) == steps


def test_the_order_depends_on_the_seed_and_the_epoch() -> None:
    config = FinetuningConfig(batch_size=4, epochs=2, batching="packed")
    steps = plan_steps([5] * 40, config, seed=1)
    assert steps[:10] != steps[10:]
    assert plan_steps([5] * 40, config, seed=2) != steps


def test_grouped_batches_hold_like_lengths() -> None:
    lengths = [10, 50] * 32
    steps = plan_steps(lengths, FinetuningConfig(batch_size=8), seed=3)
    assert all(len({lengths[i] for i in step[0][0]}) == 1 for step in steps)
    assert [lengths[step[0][0][0]] for step in steps] not in ([10] * 4 + [50] * 4, [50] * 4 + [10] * 4)


def test_padded_rows_by_hand() -> None:
    batch = collate([([3, 4], [5]), ([6], [7, 8, 9])], [1.0, 0.5])
    assert batch.inputs["input_ids"].tolist() == [[3, 4, 5, 0], [6, 7, 8, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.predicts_BT.int().tolist() == [[0, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.targets_N.tolist() == [5, 7, 8, 9]
    assert batch.weights_N.tolist() == [1.0, 0.5, 0.5, 0.5]


def test_packed_rows_by_hand() -> None:
    batch = collate_packed([([3, 4], [5]), ([6], [7, 8, 9])], [1.0, 0.5])
    assert batch.inputs["input_ids"].tolist() == [[6, 7, 8, 9, 3, 4, 5]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert "attention_mask" not in batch.inputs
    assert batch.predicts_BT.int().tolist() == [[1, 1, 1, 0, 0, 1, 0]]
    assert batch.targets_N.tolist() == [7, 8, 9, 5]
    assert batch.weights_N.tolist() == [0.5, 0.5, 0.5, 1.0]


def test_packed_rows_are_bounded() -> None:
    batch = collate_packed([([3], [4] * 999)] * 5)
    assert batch.inputs["input_ids"].shape == (3, 2000)
    assert int(batch.predicts_BT.sum()) == 5 * 999
    assert collate_packed([([3], [4] * 4999), ([3], [4])]).inputs["input_ids"].shape == (2, 5000)
