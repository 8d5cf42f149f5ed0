"""Adapters as files: the same bytes everywhere, and never on the wrong base."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raft_core.config.finetuning import LoraConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import digest_of
from raft_core.policies.text.adapter import apply_adapter, check_same_shape, fresh_adapter, save_adapter
from raft_core.policies.text.model import load_policy, load_weights
from raft_core.types import Artifact, Policy

LORA = LoraConfig(r=4, alpha=8)


def fresh(folder: Path, seed: int = 0) -> torch.nn.Module:
    model = load_weights(folder, TextPolicyConfig(model=str(folder)))
    adapted: torch.nn.Module = fresh_adapter(model, LORA, digest_of(folder), seed)
    return adapted


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """An adapter that changes the tiny checkpoint a lot."""
    model = fresh(tiny_checkpoint)
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(p.shape, generator=generator) for name, p in trained(model).items()}
    save_adapter(model, state, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_fresh_adapter_changes_nothing_and_depends_on_the_seed_alone(tiny_checkpoint: Path) -> None:
    ids = torch.tensor([[3, 4, 5]])
    plain = load_weights(tiny_checkpoint, TextPolicyConfig(model=""))(ids).logits
    torch.manual_seed(5)
    first = fresh(tiny_checkpoint)
    torch.manual_seed(6)
    state = torch.random.get_rng_state()
    again, other = fresh(tiny_checkpoint), fresh(tiny_checkpoint, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first(ids).logits, plain)
    pairs = [(trained(first)[name], trained(again)[name], trained(other)[name]) for name in trained(first)]
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_only_the_adapter_is_trained(tiny_checkpoint: Path) -> None:
    names = trained(fresh(tiny_checkpoint))
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name or "embed" in name for name in names)
    assert len(names) == 2 * 7 * 2  # A and B, seven linear layers, two blocks


def test_bytes_name_no_path_and_no_order(
    tiny_checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    copy = make_checkpoint(tmp_path / "elsewhere" / "model")
    assert digest_of(copy) == digest_of(tiny_checkpoint)
    for number, folder in enumerate((tiny_checkpoint, copy)):
        model = fresh(folder)
        save_adapter(model, dict(reversed(trained(model).items())), tmp_path / str(number))
    assert digest_of(tmp_path / "0") == digest_of(tmp_path / "1")
    told = json.loads((tmp_path / "0" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == f"sha256:{digest_of(copy)}"
    assert told["target_modules"] == sorted(told["target_modules"])
    assert str(tmp_path) not in (tmp_path / "0" / "adapter_config.json").read_text()
    assert sorted(p.name for p in (tmp_path / "0").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_saving_and_loading_gives_the_same_model(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    loaded = apply_adapter(
        load_weights(tiny_checkpoint, TextPolicyConfig(model="")), adapter, digest_of(tiny_checkpoint), trainable=True
    )
    check_same_shape(loaded, LORA)
    save_adapter(loaded, trained(loaded), tmp_path / "again")
    assert digest_of(tmp_path / "again") == digest_of(adapter)


def test_the_wrong_base_is_refused(tiny_checkpoint: Path, adapter: Path) -> None:
    model = load_weights(tiny_checkpoint, TextPolicyConfig(model=""))
    with pytest.raises(IntegrityError, match="0" * 64):
        apply_adapter(model, adapter, "0" * 64, trainable=False)


def test_an_adapter_cut_in_half_or_of_another_model_is_refused(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    def apply(folder: Path) -> None:
        model = load_weights(tiny_checkpoint, TextPolicyConfig(model=""))
        apply_adapter(model, folder, digest_of(tiny_checkpoint), trainable=False)

    with pytest.raises(InputError, match=r"adapter_config\.json"):
        apply(tmp_path / "absent")
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        apply(adapter)
    from safetensors.torch import save_file

    tensors = load_file_from(whole, tmp_path)
    save_file(dict(list(tensors.items())[:-1]), weights)
    with pytest.raises(IntegrityError, match="missing tensors"):
        apply(adapter)


def load_file_from(data: bytes, tmp_path: Path) -> dict[str, torch.Tensor]:
    (tmp_path / "whole.safetensors").write_bytes(data)
    return load_file(tmp_path / "whole.safetensors")


def test_another_rank_than_the_configuration_says_is_refused(tiny_checkpoint: Path, adapter: Path) -> None:
    model = load_weights(tiny_checkpoint, TextPolicyConfig(model=""))
    loaded = apply_adapter(model, adapter, digest_of(tiny_checkpoint), trainable=True)
    with pytest.raises(InputError, match="r 4, alpha 8"):
        check_same_shape(loaded, LoraConfig(r=8, alpha=8))


def test_targets_that_fit_nothing_are_refused(tiny_checkpoint: Path) -> None:
    model = load_weights(tiny_checkpoint, TextPolicyConfig(model=""))
    with pytest.raises(InputError, match="targets"):
        fresh_adapter(model, LoraConfig(targets=("no_such_layer",)), "0" * 64, 0)


def test_a_merged_policy_is_not_frozen(tiny_checkpoint: Path, adapter: Path) -> None:
    """torch copies a frozen head for every row of a prefill; see ``load_policy``."""
    base = Artifact(tiny_checkpoint, digest_of(tiny_checkpoint))
    merged = load_policy(Policy(adapter, digest_of(adapter), base), TextPolicyConfig(model=str(tiny_checkpoint)))
    assert all(parameter.requires_grad for parameter in merged.parameters())
