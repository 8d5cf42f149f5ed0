"""The loss of RAFT's third step (paper, Algorithm 1): supervised fine-tuning on the kept responses.

    L(θ) = −1/N Σ_i w_i Σ_t log softmax(z_θ(y_t | x, y_<t) / λ)[y_t]

over the N tokens that an optimizer step trains on, in all its micro batches and ranks. λ = 1 is the
paper's loss. With λ the temperature that the samples were drawn at, the tempered policy is fitted
to tempered samples; the plain loss would sharpen the policy in every iteration.
"""

import torch
from torch import Tensor


def weighted_nll(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor, temperature: float) -> Tensor:
    """Σ of w · cross entropy over N tokens, float32; to be divided by the step's number of tokens."""
    nll_N = torch.nn.functional.cross_entropy(logits_NV.float() / temperature, targets_N, reduction="none")
    return (nll_N * weights_N).sum()


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
