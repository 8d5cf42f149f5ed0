"""The loss of RAFT's third step (arXiv:2304.06767, Algorithm 1): supervised fine-tuning on the kept responses.

    L(θ) = −1/N Σ_i w_i Σ_t log softmax(z_θ(y_t | x, y_<t) / λ)[y_t]

over the N learnt tokens of an optimiser step, whatever micro batch or rank holds them. λ = 1 is the paper's loss. With
λ the temperature that the samples were drawn at, the tempered policy is fitted to tempered samples; the plain loss
would sharpen the policy in every iteration.
"""

from typing import TYPE_CHECKING, Literal

from raft_core.losses.base import Loss, Tokens

if TYPE_CHECKING:
    from torch import Tensor


class Raft(Loss):
    """Weighted negative log-likelihood of the selected completions: supervised fine-tuning, the paper's loss."""

    type: Literal["raft"] = "raft"

    def per_token(self, tokens: Tokens) -> "Tensor":
        """−log p of each token."""
        return -tokens.logprobs_N
