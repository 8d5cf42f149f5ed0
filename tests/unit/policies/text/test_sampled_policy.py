"""What is sampled and scored is what is exported: rounding to bfloat16 does not take the update away."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raft_core.config.finetuning import LoraConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.files.artifacts import digest_of
from raft_core.policies.text.adapter import fresh_adapter, save_adapter
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.policies.text.likelihood import completion_logprobs
from raft_core.policies.text.model import load_policy, load_weights
from raft_core.policies.text.rounding import rounded
from raft_core.types import Artifact, Policy

WEIGHT, UPDATE = 0.15, 4e-4
"""Near .15 the numbers of bfloat16 lie .00098 apart: such an update added to such a weight is rounded away."""
PAIRS = [([3 + i % 90, 5, 7 + i % 40], [(11 * i + 7 * j) % 100 + 2 for j in range(12)]) for i in range(64)]


@pytest.fixture(scope="module")
def base(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """A policy that bfloat16 holds exactly, as it does most published ones."""
    folder = make_checkpoint(tmp_path_factory.mktemp("coarse") / "model")
    tensors = load_file(folder / "model.safetensors")
    coarse = {name: (t.sign() * WEIGHT if "_proj" in name else t).bfloat16().float() for name, t in tensors.items()}
    save_file(coarse, folder / "model.safetensors", metadata={"format": "pt"})
    return Policy(folder, digest_of(folder))


@pytest.fixture(scope="module")
def trained(base: Policy, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """An adapter on it that moves every weight by ``UPDATE``, up or down."""
    folder = tmp_path_factory.mktemp("small") / "adapter"
    model = fresh_adapter(load_weights(base.path, settings(base)), LoraConfig(r=1, alpha=1), base.digest, seed=0)
    generator = torch.Generator().manual_seed(1)

    def signs(name: str, like: Tensor) -> Tensor:
        drawn = torch.randint(0, 2, like.shape, generator=generator) * 2.0 - 1
        return drawn * UPDATE if "lora_B" in name else drawn

    save_adapter(model, {name: signs(name, p) for name, p in model.named_parameters() if p.requires_grad}, folder)
    return Policy(folder, digest_of(folder), Artifact(base.path, base.digest))


def settings(base: Policy) -> TextPolicyConfig:
    return TextPolicyConfig(model=str(base.path))


def scores(policy: Policy, base: Policy, dtype: str) -> Tensor:
    loaded = LoadedTextPolicy(policy, settings(base), dtype=dtype)
    return torch.tensor(completion_logprobs(loaded.model, PAIRS), dtype=torch.float64)


def surviving(change: Tensor, true_change: Tensor) -> float:
    """The share of a change in log-probabilities that is there (least squares)."""
    return float((change * true_change).sum() / (true_change * true_change).sum())


def test_a_small_update_survives_in_what_is_sampled(base: Policy, trained: Policy) -> None:
    """Rounded to the nearest number, what is exported would be the base again: nothing of the update is sampled."""
    exported, start = load_policy(trained, settings(base)).eval(), load_weights(base.path, settings(base))
    pairs = zip(exported.parameters(), start.parameters(), strict=True)
    assert all(torch.equal(now.bfloat16(), then.bfloat16()) for now, then in pairs)
    exact = torch.tensor(completion_logprobs(exported, PAIRS), dtype=torch.float64)
    true_change = exact - scores(base, base, "float32")
    assert float(true_change.abs().mean()) > 0.004
    change = scores(trained, base, "bfloat16") - scores(base, base, "bfloat16")
    assert surviving(change, true_change) == pytest.approx(1, abs=0.2)


def test_in_float32_the_exported_weights_are_sampled(base: Policy, trained: Policy) -> None:
    exported = load_policy(trained, settings(base)).eval()
    expected = torch.tensor(completion_logprobs(exported, PAIRS), dtype=torch.float64)
    assert torch.equal(scores(trained, base, "float32"), expected)


def test_what_bfloat16_holds_is_not_touched(base: Policy) -> None:
    exact = load_weights(base.path, settings(base)).bfloat16().state_dict()
    found = LoadedTextPolicy(base, settings(base), dtype="bfloat16").model.state_dict()  # type: ignore[attr-defined]
    assert found.keys() == exact.keys()
    assert all(torch.equal(found[name], exact[name]) for name in exact)


def test_rounding_is_right_on_average_and_never_off_by_more_than_a_gap() -> None:
    weights = torch.full((400, 500), WEIGHT).bfloat16().float() + UPDATE
    found = rounded(weights, 0).float()
    assert sorted(set(found.flatten().tolist())) == [0.150390625, 0.1513671875]
    assert float(found.mean()) == pytest.approx(float(weights[0, 0]), abs=5 * 0.00049 / weights.numel() ** 0.5)
    assert torch.equal(rounded(-weights, 0).float(), -found)


def test_the_thresholds_are_those_of_the_place() -> None:
    """So that a policy and its base are rounded alike, whatever they hold."""
    weights = torch.linspace(-3, 3, 10_007)
    assert torch.equal(rounded(weights, 4), rounded(weights, 4))
    assert not torch.equal(rounded(weights, 4), rounded(weights, 5))
    more = rounded(weights + 1e-3, 4).float() - rounded(weights, 4).float()
    assert float(more.min()) >= 0


def test_weights_that_are_no_numbers_stay_so() -> None:
    strange = torch.tensor([[0x7FFFFFFF, 0x7F800001, -1, 0x7F800000, 0x00000001]], dtype=torch.int32).view(
        torch.float32
    )
    found = rounded(strange, 0)[0]
    assert found[:3].isnan().all()
    assert found[3] == float("inf")
    assert found[4] in (0, 2**-133)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotary_frequencies_stay_exact_and_nothing_is_frozen(base: Policy, trained: Policy, dtype: str) -> None:
    """torch copies a frozen head for every row of a prefill; see ``load_policy``."""
    model = LoadedTextPolicy(trained, settings(base), dtype=dtype).model  # type: ignore[attr-defined]
    assert all(p.requires_grad and p.dtype == getattr(torch, dtype) for p in model.parameters())
    exact = dict(load_weights(base.path, settings(base)).named_buffers())
    assert any("inv_freq" in name for name in exact)
    assert all(torch.equal(buffer, exact[name]) for name, buffer in model.named_buffers())
