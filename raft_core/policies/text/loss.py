"""The sum that a micro batch adds to the step's loss, and the learning rate of a step."""

from collections.abc import Mapping

import torch
from torch import Tensor

from raft_core.errors import StepError
from raft_core.losses.base import Loss, Tokens


def summed_loss(
    loss: Loss,
    logits_NV: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    temperature: float,
    columns: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Σ of w · loss over N tokens, float32; to be divided by the step's number of tokens.

    Raises StepError if the loss of another package does not return one value per token.
    """
    nll_N = torch.nn.functional.cross_entropy(logits_NV.float() / temperature, targets_N, reduction="none")
    values_N = loss.per_token(Tokens(-nll_N, weights_N, columns or {}))
    if values_N.shape != weights_N.shape:
        raise StepError(
            f"loss {loss.type} failed",
            got=f"a tensor of shape {tuple(values_N.shape)} for {len(weights_N)} tokens",
            expected="one value per token",
            hint=f"correct {type(loss).__module__}.{type(loss).__name__}.per_token",
        )
    return (values_N * weights_N).sum()


def learning_rate_factor(
    schedule: str, step: int, *, num_steps: int, warmup_steps: int, iteration: int, iterations: int
) -> float:
    """The factor of the learning rate at optimizer step ``step`` (from 0) of ``num_steps``.

    "linear_over_run" falls to 0 over all iterations, "linear" over each iteration, "constant" stays.
    Warm-up is repeated in every iteration, since each starts with a new optimizer.
    """
    progress = step / max(num_steps, 1)
    fall = {
        "linear_over_run": 1 - (iteration + progress) / max(iterations, iteration + 1),
        "linear": 1 - progress,
        "constant": 1.0,
    }[schedule]
    return fall * min(1.0, (step + 1) / (warmup_steps + 1))
