"""From the selected table to batches: what is trained on, in which order, on which rank.

A sequence is trained on exactly the token ids that were sampled, never on text encoded again. The
loss covers only completion tokens, and the end-of-sequence token only where the response ended.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from raft_core.config.finetuning import FinetuningConfig
from raft_core.errors import StepError
from raft_core.policies.text.batches import collate, collate_packed
from raft_core.records.tables import SELECTED, read_table

GROUPED_BATCHES = 8
"""Number of optimizer steps whose sequences are sorted by length together."""


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One selected sample. The last ``len(completion)`` tokens are trained on; ``weight`` multiplies their loss.

    ``columns``: what the loss reads besides, one number per completion token.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def read_selected(path: Path, eos: frozenset[int], more: Sequence[str] = ()) -> list[TrainingSequence]:
    """The sequences of a SELECTED table, in its order; ``more``: the columns that the loss reads.

    Raises StepError if there is no token to train on.
    """
    columns = ["prompt_token_ids", "completion_token_ids", "weight", "finish_reason", *more]
    rows = read_table(path, SELECTED, columns).to_pylist()
    sequences = []
    for row in rows:
        completion = tuple(row["completion_token_ids"])
        if row["finish_reason"] != "stop" and completion and completion[-1] in eos:
            completion = completion[:-1]
        if completion and row["prompt_token_ids"]:
            per_token = {name: tuple(row[name][: len(completion)]) for name in more}
            sequences.append(TrainingSequence(tuple(row["prompt_token_ids"]), completion, row["weight"], per_token))
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
        return {
            "batch": together([(s.prompt, s.completion) for s in chosen], weights, [s.columns for s in chosen]),
            "num_tokens": num_tokens,
        }
