"""The distribution that is sampled, and one draw from it.

In the order of transformers' ``generate``: logits / λ, then top-k, then top-p. Tokens that tie
with the last kept one are kept too, so the kept set does not depend on the order of a sort. A draw
is the inverse CDF, in the order of token ids, of a uniform number: rows do not influence each other.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256
"""Tokens of one block of the two-level inverse CDF: a block is found first, then a token in it."""
ROWS, GPU_ROWS = 16, 1024
"""Rows drawn together. On a CPU the float32 copies of 16 rows fit the cache. On a GPU every group costs a round of
small kernels (16 rows at a time took half of a step), so a whole batch is drawn at once; the copies take a few GB."""
LIKELY = 512
"""Number of tokens that usually hold top-p of the probability; all are sorted only where they do not."""


@dataclass(frozen=True, slots=True)
class Draw:
    """N draws. ``valid_N`` is false where the logits were not finite: such a token means nothing."""

    tokens_N: Tensor
    logprobs_N: Tensor
    sampling_logprobs_N: Tensor
    valid_N: Tensor


def draw(
    logits_NV: Tensor,
    uniforms_N: Tensor,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    banned: Tensor | None = None,
) -> Draw:
    """One token per row of ``logits_NV``, by ``uniforms_N`` in [0, 1).

    ``banned`` token ids have no probability. ``logprobs`` are the model's own (λ = 1, nothing
    filtered or banned), ``sampling_logprobs`` those of the distribution drawn from; at temperature
    0 the likeliest token is certain.
    """
    rows = ROWS if logits_NV.device.type == "cpu" else GPU_ROWS
    parts = [
        _draw(logits_RV.float(), uniforms_R, temperature, top_k, top_p, banned)
        for logits_RV, uniforms_R in zip(torch.split(logits_NV, rows), torch.split(uniforms_N, rows), strict=True)
    ]
    return Draw(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _draw(
    logits_RV: Tensor, uniforms_R: Tensor, temperature: float, top_k: int, top_p: float, banned: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, log-probabilities, sampling log-probabilities and validity of a few float32 rows."""
    centred_RV = logits_RV - logits_RV.amax(dim=-1, keepdim=True)
    buffer_RV = torch.exp(centred_RV)
    total_R = buffer_RV.sum(dim=-1)
    allowed_RV = centred_RV if banned is None or not len(banned) else centred_RV.index_fill(1, banned, -math.inf)
    if temperature == 0:
        tokens_R = allowed_RV.argmax(dim=-1)
        sampling_logprobs_R = torch.zeros_like(total_R)
    else:
        scaled_RV = filtered(torch.div(allowed_RV, temperature, out=buffer_RV), top_k=top_k, top_p=top_p)
        weights_RV = scaled_RV.sub_(scaled_RV.amax(dim=-1, keepdim=True)).exp_()
        tokens_R, mass_R = _inverse_cdf(weights_RV, uniforms_R)
        sampling_logprobs_R = (_at(weights_RV, tokens_R).double() / mass_R).log().float()
    return tokens_R, _at(centred_RV, tokens_R) - total_R.log(), sampling_logprobs_R, torch.isfinite(total_R)


def filtered(logits_NV: Tensor, *, top_k: int, top_p: float) -> Tensor:
    """Logits with −inf for the tokens that top-k, then top-p, exclude."""
    if 0 < top_k < logits_NV.shape[-1]:
        limit_N1 = logits_NV.topk(top_k, dim=-1).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < limit_N1, -math.inf)
    if top_p < 1:
        logits_NV = logits_NV.masked_fill(logits_NV < _top_p_limit(logits_NV, top_p), -math.inf)
    return logits_NV


def _top_p_limit(logits_NV: Tensor, top_p: float) -> Tensor:
    """The smallest logit [N, 1] of the smallest set whose probability reaches ``top_p``."""
    total_N1 = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
    size = min(LIKELY, logits_NV.shape[-1])
    while True:
        sorted_NS = logits_NV.topk(size, dim=-1).values
        mass_NS = torch.exp(sorted_NS - total_N1).cumsum(-1)
        if size == logits_NV.shape[-1] or bool((mass_NS[:, -1] >= top_p).all()):
            last_N1 = (mass_NS < top_p).sum(-1, keepdim=True).clamp(max=size - 1)
            return sorted_NS.gather(1, last_N1)
        size = logits_NV.shape[-1]


def _inverse_cdf(weights_NV: Tensor, uniforms_N: Tensor) -> tuple[Tensor, Tensor]:
    """The token in whose share of the total weight ``uniforms_N`` falls, and the total (float64)."""
    num_rows, vocabulary = weights_NV.shape
    if missing := -vocabulary % BLOCK:
        weights_NV = torch.nn.functional.pad(weights_NV, (0, missing))
    blocks_NCB = weights_NV.view(num_rows, -1, BLOCK)
    masses_NC = blocks_NCB.sum(-1).double()
    upto_NC = masses_NC.cumsum(-1)
    target_N1 = (uniforms_N.to(upto_NC) * upto_NC[:, -1])[:, None]
    target_N1 = torch.minimum(target_N1, torch.nextafter(upto_NC[:, -1:], torch.zeros_like(target_N1)))
    block_N1 = _first_above(upto_NC, target_N1)
    before_N1 = upto_NC.gather(1, block_N1) - masses_NC.gather(1, block_N1)
    inside_NB = blocks_NCB.gather(1, block_N1[:, :, None].expand(-1, -1, BLOCK))[:, 0].double()
    inside_upto_NB = inside_NB.cumsum(-1)
    # The block's own sum may differ from its entry in the first level by a rounding: stay inside it.
    highest_N1 = torch.nextafter(inside_upto_NB[:, -1:], torch.zeros_like(before_N1))
    offset_N1 = _first_above(inside_upto_NB, torch.minimum(target_N1 - before_N1, highest_N1))
    return (block_N1 * BLOCK + offset_N1)[:, 0].clamp(max=vocabulary - 1), upto_NC[:, -1]


def _first_above(ascending_NC: Tensor, value_N1: Tensor) -> Tensor:
    """Index [N, 1] of the first entry above the value: one whose own weight is positive."""
    return torch.searchsorted(ascending_NC, value_N1, right=True).clamp(max=ascending_NC.shape[1] - 1)


def _at(values_NV: Tensor, tokens_N: Tensor) -> Tensor:
    return values_NV.gather(1, tokens_N[:, None])[:, 0]
