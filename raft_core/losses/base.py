"""What a loss is: one value per token that is learnt, from the policy's log-probability of it.

A loss of your own is a subclass of ``Loss`` in one file, plus one line: in ``raft_core.losses.registry``, or in an
installed package an entry point of the group ``raft.losses`` (``raft_core.plugins``). Such a package must be installed
wherever a training process runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from raft_core.config.model import ConfigModel

if TYPE_CHECKING:  # torch is loaded in the training process: every command reads a configuration
    from torch import Tensor

TokenColumn = Literal["sampling_logprobs"]
"""Columns of the selected table that hold one number per completion token."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The N learnt tokens of one micro batch.

    ``logprobs_N``: log p(token) of the policy that is trained, at λ = ``finetuning.loss_temperature``, with its
    gradient, float32. ``weights_N``: the weight that selection gave to each token's sample. ``columns``: what
    ``Loss.columns`` asks for, each [N], float32.
    """

    logprobs_N: "Tensor"
    weights_N: "Tensor"
    columns: "Mapping[str, Tensor]"


class Loss(ConfigModel, ABC):
    """A loss: its settings, and the value of a token. Subclasses set ``type`` to a literal of their own.

    What is minimised is Σ w · per_token / N over the N learnt tokens of an optimiser step, w being the weight that
    selection gave to the token's sample: the trainer multiplies and divides.
    """

    type: str

    columns: ClassVar[tuple[TokenColumn, ...]] = ()
    """The columns that ``per_token`` reads."""

    @abstractmethod
    def per_token(self, tokens: Tokens) -> "Tensor":
        """The loss of each of the N tokens, [N], float32."""
