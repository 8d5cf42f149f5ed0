"""Sequences of token ids as one batch of tensors: padded rows, or several sequences packed into a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Columns = Mapping[str, Sequence[float]]
"""Name → one number per completion token of a sequence."""
PACKED_TOKENS = 2048
"""Tokens of a packed row, unless one sequence alone is longer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass of B rows of T positions, N of which predict a learnt token.

    ``inputs``: arguments of the model. ``predicts_BT``: true where the *next* token is learnt;
    ``targets_N`` and ``weights_N``: those tokens and their sequence's weight, in row-major order; ``columns``: what the
    loss reads of each beside them, [N] each.
    """

    inputs: dict[str, Tensor]
    predicts_BT: Tensor
    targets_N: Tensor
    weights_N: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``."""
        return replace(
            self,
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            predicts_BT=self.predicts_BT.to(device),
            targets_N=self.targets_N.to(device),
            weights_N=self.weights_N.to(device),
            columns={name: values_N.to(device) for name, values_N in self.columns.items()},
        )


def collate(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    weights: Sequence[float] = (),
    columns: Sequence[Columns] = (),
) -> Batch:
    """One row a (prompt, completion), padded at the end; every completion token is predicted."""
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
    return _batch(inputs, predicts_BT, sequences, weights, columns)


def collate_packed(
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    weights: Sequence[float] = (),
    columns: Sequence[Columns] = (),
) -> Batch:
    """Several sequences a row, each attending to itself alone.

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
    placed, placed_weights = [sequences[i] for i in order], [weights[i] for i in order] if weights else ()
    return _batch(inputs, predicts_BT, placed, placed_weights, [columns[i] for i in order] if columns else ())


def _batch(
    inputs: dict[str, Tensor],
    predicts_BT: Tensor,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    weights: Sequence[float],
    columns: Sequence[Columns],
) -> Batch:
    targets = [token for _, completion in sequences for token in completion]
    each = weights or [1.0] * len(sequences)
    spread = [w for w, (_, completion) in zip(each, sequences, strict=True) for _ in completion]
    per_token = {
        name: torch.tensor([value for each in columns for value in each[name]], dtype=torch.float32)
        for name in (columns[0] if columns else ())
    }
    return Batch(inputs, predicts_BT, torch.tensor(targets), torch.tensor(spread, dtype=torch.float32), per_token)


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
