"""Test whether a model can be sampled and trained in RAFT's batches, which its configuration does not say.

Each probe runs the real model, in float32, on a few tokens, and compares a batch with every sequence alone. The
result depends on the architecture and not on the weights, so one probe per run is enough.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raft_core.errors import InputError
from raft_core.policies.text.batches import collate, collate_packed
from raft_core.policies.text.model import Model, masked_logits, memory_errors
from raft_core.policies.text.sample import next_logits, prefill, select_rows

TOLERANCE = 1e-3
"""Maximum difference of two logits, relative to the largest logit. Rounding in float32 stays below 1e-5."""
Pair = tuple[list[int], list[int]]
"""Prompt ids, completion ids."""


@torch.inference_mode()
def check_decoding(model: Model) -> None:
    """Raise InputError unless cached, padded, repeated decoding gives the logits of each sequence alone."""
    prompts = [_ids(model, 3, 5), _ids(model, 40, 2), _ids(model, 80, 7)]
    more = _ids(model, 120, 3 * 3)
    try:
        with memory_errors():
            cached, alone = _decoded(model, prompts, more)
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError, NotImplementedError) as error:
        raise _cannot_sample(model, f"{type(error).__name__}: {str(error)[:200]}") from error
    apart = max(_apart(torch.stack([step[n] for step in cached]), alone[n]) for n in range(len(prompts)))
    if not apart <= TOLERANCE:
        raise _cannot_sample(model, f"logits in a batch differ by {apart:.2g} from those of each sequence alone")


def _decoded(model: Model, prompts: list[list[int]], more: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Logits step by step in a batch, and those of each sequence alone."""
    logits_NV, cache, mask_NT = prefill(model, prompts, 2)
    cached = [logits_NV[[0, 3, 5]]]
    rows = torch.tensor([0, 3, 5], device=logits_NV.device)
    select_rows(cache, rows)
    mask_NT = mask_NT[rows]
    for step in range(3):
        tokens_N1 = torch.tensor(more[step::3], device=mask_NT.device)[:, None]
        mask_NT = torch.cat([mask_NT, mask_NT.new_ones(len(rows), 1)], dim=1)
        logits_NV, cache = next_logits(model, tokens_N1, mask_NT, cache)
        cached.append(logits_NV)
    return cached, [_alone(model, (prompt, more[3 * n : 3 * n + 3])) for n, prompt in enumerate(prompts)]


@torch.inference_mode()
def check_padding(model: Model) -> None:
    """Raise InputError unless a padded batch, as training and likelihoods use it, gives each sequence's own logits."""
    pairs = _pairs(model)
    apart = _batch_apart(model, pairs, packed=False)
    if not apart <= TOLERANCE:
        raise InputError(
            f"{type(model).__name__} cannot be trained in padded batches",
            got=f"logits that differ by {apart:.2g} from those of each sequence alone",
            expected="a causal model whose attention ignores padding",
            hint="set policy.model to a model of another architecture",
        )


@torch.inference_mode()
def check_packing(model: Model) -> None:
    """Raise InputError if a sequence in a packed row would attend to the one before it."""
    training = model.training
    model.eval()
    apart = _batch_apart(model, _pairs(model), packed=True)
    model.train(training)
    if not apart <= TOLERANCE:
        raise InputError(
            f"{type(model).__name__} cannot be trained in packed batches: sequences would attend to each other",
            got=f"logits that differ by {apart:.2g} from those of each sequence alone",
            expected="a model whose attention transformers masks by position_ids",
            hint="set finetuning.batching: length_grouped",
        )


def _batch_apart(model: Model, pairs: Sequence[Pair], *, packed: bool) -> float:
    """Largest relative difference between the logits of a batch and those of each sequence alone."""
    batch = (collate_packed if packed else collate)(pairs).to(model.device)
    logits_NV = masked_logits(model, batch.inputs, batch.predicts_BT, head=model.get_output_embeddings())
    order = sorted(range(len(pairs)), key=lambda n: -sum(map(len, pairs[n]))) if packed else range(len(pairs))
    parts = torch.split(logits_NV, [len(pairs[n][1]) for n in order])
    return max(_apart(part, _alone(model, pairs[n])[:-1]) for part, n in zip(parts, order, strict=True))


def _alone(model: Model, pair: Pair) -> Tensor:
    """Logits [completion + 1, V] that follow the prompt and each completion token: one row, no padding, no cache."""
    prompt, completion = pair
    ids_1T = torch.tensor([[*prompt, *completion]], device=model.device)
    logits: Tensor = model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt) - 1 :]
    return logits


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _pairs(model: Model) -> list[Pair]:
    return [(_ids(model, 3, 4), _ids(model, 50, 5)), (_ids(model, 90, 2), _ids(model, 130, 4))]


def _ids(model: Model, start: int, length: int) -> list[int]:
    """Different ids of the vocabulary, without its first few, which are often special tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    return [(start + 7 * n) % max(vocabulary - 4, 1) + min(3, vocabulary - 1) for n in range(length)]


def _cannot_sample(model: Model, got: str) -> InputError:
    return InputError(
        f"{type(model).__name__} cannot be sampled in batches",
        got=got,
        expected="a model that ignores padding and whose cache allows rows to be repeated and selected",
        hint="set policy.model to a model of another architecture",
    )
