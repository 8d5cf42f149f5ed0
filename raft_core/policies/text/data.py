"""From the selected table to batches: what is trained on, in which order, on which rank.

A sequence is trained on exactly the token ids that were sampled, never on text encoded again. The
loss covers only completion tokens, and the end-of-sequence token only where the response ended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from raft_core.config.finetuning import FinetuningConfig
from raft_core.errors import StepError
from raft_core.records.tables import SELECTED, read_table

GROUPED_BATCHES = 8
"""Number of optimizer steps whose sequences are sorted by length together."""
PACKED_TOKENS = 2048
"""Tokens of a packed row, unless one sequence alone is longer."""


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One selected sample. The last ``len(completion)`` tokens are trained on; ``weight`` multiplies their loss."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass of B rows of T positions, N of which predict a token that is trained on.

    ``inputs``: arguments of the model. ``predicts_BT``: true where the *next* token is trained on;
    ``targets_N`` and ``weights_N``: those tokens and their sequence's weight, in row-major order.
    """

    inputs: dict[str, Tensor]
    predicts_BT: Tensor
    targets_N: Tensor
    weights_N: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        return replace(
            self,
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            predicts_BT=self.predicts_BT.to(device),
            targets_N=self.targets_N.to(device),
            weights_N=self.weights_N.to(device),
        )


def read_selected(path: Path, eos: frozenset[int]) -> list[TrainingSequence]:
    """The sequences of a SELECTED table, in its order. Raises StepError if there is no token to train on."""
    columns = ["prompt_token_ids", "completion_token_ids", "weight", "finish_reason"]
    rows = read_table(path, SELECTED, columns).to_pylist()
    sequences = []
    for row in rows:
        completion = tuple(row["completion_token_ids"])
        if row["finish_reason"] != "stop" and completion and completion[-1] in eos:
            completion = completion[:-1]
        if completion and row["prompt_token_ids"]:
            sequences.append(TrainingSequence(tuple(row["prompt_token_ids"]), completion, row["weight"]))
    if not sequences:
        raise StepError(
            f"the selected samples contain no token to train on: {path}",
            got=f"{len(rows)} rows, none with both a prompt and a completion",
            expected="at least one row with prompt_token_ids and completion_token_ids",
            hint="loosen the settings of selection and validation, which nothing passed",
        )
    return sequences


# -- which sequences, when and where ------------------------------------------------------------


def plan_steps(lengths: Sequence[int], config: FinetuningConfig, seed: int) -> list[list[list[list[int]]]]:
    """Indices of sequences as [optimizer step][rank][micro batch]: every epoch, every sequence once.

    The order is a shuffle by ``seed``. "length_grouped": batches of similar length, their order
    shuffled. Every step has the same number of micro batches on every rank; in the last, smaller
    step of an epoch some may be empty.
    """
    steps = []
    for epoch in range(config.epochs):
        random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
        order = [int(i) for i in random.permutation(len(lengths))]
        batches = _cut(order, config.batch_size)
        if config.batching == "length_grouped":
            batches = []
            for pool in _cut(order, config.batch_size * GROUPED_BATCHES):
                batches += _cut(sorted(pool, key=lambda i: (-lengths[i], i)), config.batch_size)
            batches = [batches[i] for i in random.permutation(len(batches))]
        steps += [_spread(batch, config) for batch in batches]
    return steps


def micro_batches_per_step(config: FinetuningConfig) -> int:
    """Forward passes of a rank in one optimizer step (gradient accumulation)."""
    per_rank = config.batch_size // config.ranks
    return per_rank // (config.micro_batch_size or per_rank)


def _spread(batch: list[int], config: FinetuningConfig) -> list[list[list[int]]]:
    size = config.micro_batch_size or config.batch_size // config.ranks
    ranks = [batch[rank :: config.ranks] for rank in range(config.ranks)]
    return [[rows[m * size : (m + 1) * size] for m in range(micro_batches_per_step(config))] for rows in ranks]


def _cut(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


# -- tensors --------------------------------------------------------------------------------------


def collate(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], weights: Sequence[float] = ()) -> Batch:
    """One row per (prompt, completion), padded at the end; every completion token is predicted."""
    width = max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids_BT = torch.zeros(len(sequences), width, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    predicts_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(sequences):
        length = len(prompt) + len(completion)
        ids_BT[row, :length] = torch.tensor([*prompt, *completion])
        mask_BT[row, :length] = 1
        predicts_BT[row, len(prompt) - 1 : length - 1] = True
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
    return _batch(inputs, predicts_BT, sequences, weights)


def collate_packed(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], weights: Sequence[float] = ()) -> Batch:
    """Several sequences per row, each attending only to itself.

    The positions of each sequence start at 0 and there is no padding mask: that is how
    transformers tells packed sequences apart, and masks attention between them.
    """
    lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
    rows = _bins(lengths, max(PACKED_TOKENS, *lengths))
    width = max(sum(lengths[i] for i in row) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    positions_BT = torch.zeros_like(ids_BT)
    predicts_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    for number, row in enumerate(rows):
        start = 0
        for i in row:
            prompt, completion = sequences[i]
            end = start + lengths[i]
            ids_BT[number, start:end] = torch.tensor([*prompt, *completion])
            positions_BT[number, start:end] = torch.arange(lengths[i])
            predicts_BT[number, start + len(prompt) - 1 : end - 1] = True
            start = end
    order = [i for row in rows for i in row]
    inputs = {"input_ids": ids_BT, "position_ids": positions_BT}
    return _batch(inputs, predicts_BT, [sequences[i] for i in order], [weights[i] for i in order] if weights else ())


def _batch(
    inputs: dict[str, Tensor],
    predicts_BT: Tensor,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    weights: Sequence[float],
) -> Batch:
    targets = [token for _, completion in sequences for token in completion]
    each = weights or [1.0] * len(sequences)
    spread = [w for w, (_, completion) in zip(each, sequences, strict=True) for _ in completion]
    return Batch(inputs, predicts_BT, torch.tensor(targets), torch.tensor(spread, dtype=torch.float32))


def _bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First fit, longest first: rows of at most ``capacity`` tokens."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        row = next((r for r, left in enumerate(room) if left >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def num_steps(num_sequences: int, config: FinetuningConfig) -> int:
    """Number of optimizer steps of a whole fine-tuning."""
    return config.epochs * math.ceil(num_sequences / config.batch_size)


class MicroBatches(Dataset[dict[str, Any]]):
    """This rank's micro batches in order. An empty one is a dummy of weight 0: every rank takes every step."""

    def __init__(self, sequences: Sequence[TrainingSequence], config: FinetuningConfig, seed: int, rank: int) -> None:
        self.sequences, self.config = sequences, config
        self.shortest = min(range(len(sequences)), key=lambda i: len(sequences[i]))
        self.items: list[tuple[list[int], int]] = []
        for step in plan_steps([len(s) for s in sequences], config, seed):
            num_tokens = sum(len(sequences[i].completion) for ranks in step for micro in ranks for i in micro)
            self.items += [(micro, num_tokens) for micro in step[rank]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{batch, num_tokens}: ``num_tokens`` counts the whole optimizer step, over all ranks."""
        rows, num_tokens = self.items[index]
        chosen = [self.sequences[i] for i in rows or [self.shortest]]
        weights = [s.weight if rows else 0.0 for s in chosen]
        together = collate_packed if self.config.batching == "packed" else collate
        return {"batch": together([(s.prompt, s.completion) for s in chosen], weights), "num_tokens": num_tokens}
