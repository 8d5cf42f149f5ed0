"""Causal language models on disk: implements ``raft_core.policies.base.Checkpoint``."""

from typing import TYPE_CHECKING

from raft_core.config.finetuning import FinetuningConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.files.artifacts import model_digest
from raft_core.policies.text import model as models
from raft_core.policies.text.check import asks_for_date, check, model_folder_of
from raft_core.policies.text.merge import merge
from raft_core.policies.text.model import memory_errors, numerics
from raft_core.types import Policy

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig

__all__ = ["asks_for_date", "base_policy", "check", "check_settings", "merge", "numerics", "probe"]


def base_policy(config: TextPolicyConfig, known: str | None = None) -> Policy:
    """See ``Checkpoint.base_policy``. Raises InputError if the folder does not exist."""
    folder = model_folder_of(config)
    return Policy(folder, model_digest(folder, known))


def probe(policy: Policy, config: TextPolicyConfig, finetuning: FinetuningConfig) -> None:
    """See ``Checkpoint.probe``."""
    from raft_core.policies.text.probe import check_decoding, check_packing, check_padding

    with memory_errors():
        model = models.load_weights(models.model_folder(policy), config)
        check_decoding(model)
        check_padding(model)
        if finetuning.batching == "packed":
            check_packing(model)


def check_settings(config: "RaftConfig") -> None:
    """See ``Checkpoint.check_settings``: a language model follows all of them."""
