"""Log-probabilities of given tokens (teacher forcing): for KL, perplexity and checks.

Batches are formed by length and bounded by the size of their logits, so they depend only on the
sequences. Logits are computed only at the scored positions.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from raft_core.policies.text.batches import collate
from raft_core.policies.text.model import Model, masked_logits

MAX_LOGITS = 1 << 25
"""Maximum number of logits (positions × vocabulary) in one batch: 128 MB in float32."""
MAX_TOKENS = 1 << 13
MAX_ROWS = 64
ROWS = 16


@torch.inference_mode()
def completion_logprobs(
    model: Model, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], *, temperature: float = 1.0
) -> list[list[float]]:
    """log softmax(logits / λ) of every completion token of each (prompt ids, completion ids).

    A prompt must not be empty: the first completion token is predicted from it.
    """
    if temperature <= 0:
        raise ValueError(f"log-probabilities need a temperature above 0, got {temperature}")
    if any(not prompt for prompt, _ in sequences):
        raise ValueError("a sequence has no prompt token, so nothing predicts its first completion token")
    result: list[list[float]] = [[] for _ in sequences]
    head = model.get_output_embeddings()
    for rows in _batches(sequences, model.config.get_text_config().vocab_size):
        batch = collate([sequences[row] for row in rows]).to(model.device)
        logits_NV = masked_logits(model, batch.inputs, batch.predicts_BT, head=head)
        values = iter(_logprobs(logits_NV, batch.targets_N, temperature))
        for row in rows:
            result[row] = [next(values) for _ in sequences[row][1]]
    return result


def _logprobs(logits_NV: Tensor, targets_N: Tensor, temperature: float) -> list[float]:
    """log softmax(logits / λ) at the targets; a few rows at a time, so that no second [N, V] is made."""
    values: list[float] = []
    for logits_RV, targets_R in zip(torch.split(logits_NV, ROWS), torch.split(targets_N, ROWS), strict=True):
        scaled_RV = logits_RV.float() / temperature
        picked_R = scaled_RV.gather(1, targets_R[:, None])[:, 0]
        values += (picked_R - torch.logsumexp(scaled_RV, dim=-1)).tolist()
    return values


def windows(ids: Sequence[int], length: int | None) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """Cut a text into (first token, the rest) pieces of at most ``length`` tokens.

    Consecutive pieces share one token, so every token but the first is predicted exactly once.
    """
    step = (length or max(len(ids), 2)) - 1
    for start in range(0, len(ids) - 1, step):
        piece = ids[start : start + step + 1]
        yield piece[:1], piece[1:]


def _batches(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], vocabulary: int) -> Iterator[list[int]]:
    """Row indices, longest first (if memory runs out, it does so in the first batch)."""
    order = sorted(
        (row for row, (_, completion) in enumerate(sequences) if completion),
        key=lambda row: (-len(sequences[row][0]) - len(sequences[row][1]), row),
    )
    batch: list[int] = []
    positions = width = 0
    for row in order:
        prompt, completion = sequences[row]
        wider = max(width, len(prompt) + len(completion))
        full = (
            len(batch) == MAX_ROWS
            or (positions + len(completion)) * vocabulary > MAX_LOGITS
            or (len(batch) + 1) * wider > MAX_TOKENS
        )
        if batch and full:
            yield batch
            batch, positions, wider = [], 0, len(prompt) + len(completion)
        batch.append(row)
        positions, width = positions + len(completion), wider
    if batch:
        yield batch
