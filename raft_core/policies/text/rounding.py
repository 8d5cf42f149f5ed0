"""float32 weights as bfloat16, without losing a small update on the way.

Published weights mostly are numbers of bfloat16, and an update is smaller than the gap to the next one: rounded to the
nearest, the sum is the old weight again, and most of what was trained is neither sampled nor measured. Rounded up
with the probability of the part that is cut off, it is right on average, and a product with it as well
(docs/decisions/0012).

The threshold of each weight is drawn from its place alone. So a policy and its base are rounded alike, and what differs
between them is the update.
"""

import torch
from torch import Tensor, nn

LOW_BITS = 0xFFFF
"""What float32 has and bfloat16 has not."""
EXACT = "inv_freq"
"""Buffers of rotary positions: times a position of some hundreds, their rounding would be a turn."""


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
    """float32 ``weights`` in bfloat16: each up or down, by the thresholds that belong to ``place``."""
    nearest = weights.bfloat16()
    if weights.dtype != torch.float32 or torch.equal(nearest.float(), weights):
        return nearest
    bits = weights.contiguous().view(torch.int32)
    generator = torch.Generator(weights.device).manual_seed(place)
    bits = bits + torch.randint(LOW_BITS + 1, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    either = (bits & ~LOW_BITS).view(torch.float32).bfloat16()
    return torch.where(torch.isfinite(weights), either, nearest)
