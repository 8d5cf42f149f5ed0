"""Convert float32 weights to bfloat16 without losing small updates.

Published weights usually are bfloat16 numbers, and an update is smaller than the gap to the next one: rounded to the
nearest, the sum is the old weight again, and most of the training would be neither sampled nor measured. Stochastic
rounding, up with the probability of the part that is cut off, is right on average, and so is a product with the result
(docs/decisions/0012).

The threshold of each weight depends only on its position. So a policy and its base are rounded in the same way, and
their difference is the update.
"""

import torch
from torch import Tensor, nn

LOW_BITS = 0xFFFF
"""The bits that float32 has and bfloat16 does not."""
EXACT = "inv_freq"
"""Buffers of rotary positions: multiplied by a position of some hundreds, their rounding error would be too large."""


def to_bfloat16(model: nn.Module, device: torch.device) -> nn.Module:
    """``model``, float32, in bfloat16 on ``device``; in place, parameter by parameter."""
    for place, parameter in enumerate(model.parameters()):
        parameter.data = rounded(parameter.data.to(device), place)
    exact = {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2].endswith(EXACT)}
    model.to(device, torch.bfloat16)
    for name, buffer in exact.items():
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, buffer.to(device))
    return model


def rounded(weights: Tensor, place: int) -> Tensor:
    """float32 ``weights`` in bfloat16, each rounded up or down by the thresholds for parameter number ``place``."""
    nearest = weights.bfloat16()
    if weights.dtype != torch.float32 or torch.equal(nearest.float(), weights):
        return nearest
    bits = weights.contiguous().view(torch.int32)
    generator = torch.Generator(weights.device).manual_seed(place)
    bits = bits + torch.randint(LOW_BITS + 1, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    either = (bits & ~LOW_BITS).view(torch.float32).bfloat16()
    return torch.where(torch.isfinite(weights), either, nearest)
