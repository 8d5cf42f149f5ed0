"""A loaded tiny policy, and prompts for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.types import Policy, Prompt


@pytest.fixture(scope="session")
def load_tiny() -> Callable[[Path], LoadedTextPolicy]:
    """``load(folder)``: the float32 policy in a checkpoint's folder."""

    def load(folder: Path) -> LoadedTextPolicy:
        torch.set_num_threads(1)
        return LoadedTextPolicy(Policy(folder, "0" * 64), TextPolicyConfig(model=str(folder)), "float32")

    return load


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path, load_tiny: Callable[[Path], LoadedTextPolicy]) -> LoadedTextPolicy:
    """The random Llama, float32, without an adapter."""
    return load_tiny(tiny_checkpoint)


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Prompts of different lengths."""
    return [Prompt.of(text) for text in (" w1 w2 w3", " w5", " w9 w8 w7 w6 w5", " w1 w4")]


@pytest.fixture
def settings() -> Callable[..., SamplingConfig]:
    """``settings(top_k=…)``: sampling in float32, ten tokens, K decided by the call."""

    def build(**changes: object) -> SamplingConfig:
        return SamplingConfig.model_validate({"max_new_tokens": 10, "dtype": "float32", **changes})

    return build
