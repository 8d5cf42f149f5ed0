"""The model's own dropout is off in training, and what an adapter does not reach is named."""

from typing import Any

import pytest
import torch

from raft_core.config.finetuning import LoraConfig
from raft_core.policies.text.adapter import fresh_adapter
from raft_core.policies.text.trained import trained_parts, without_dropout
from raft_core.policies.text.trainer import base_of
from tests.unit.policies.text.families import build

DROPOUT: dict[str, dict[str, Any]] = {
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    "llama": {"attention_dropout": 0.5},
    "bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "mixtral": {"router_jitter_noise": 0.5, "num_local_experts": 2, "num_experts_per_tok": 1},
}


@pytest.mark.parametrize("family", DROPOUT)
def test_training_mode_computes_what_evaluation_does(family: str) -> None:
    model = build(family, **DROPOUT[family]).train()
    told = model.config.to_dict()
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        noisy = [model(input_ids=ids).logits for _ in range(2)]
        assert not torch.equal(*noisy)
        restore = without_dropout(model)
        quiet = [model(input_ids=ids).logits for _ in range(2)]
        assert torch.equal(*quiet)
        assert torch.allclose(quiet[0], model.eval()(input_ids=ids).logits, atol=1e-4)
    restore()
    assert model.config.to_dict() == told


def test_the_dropout_of_the_adapter_stays() -> None:
    model = build("gpt2", resid_pdrop=0.5)
    adapted = fresh_adapter(model, LoraConfig(dropout=0.25), "0" * 64, seed=1)
    without_dropout(base_of(adapted))  # in the order of a training
    kept = {m.p for m in adapted.modules() if isinstance(m, torch.nn.Dropout)}
    assert kept == {0.0, 0.25}


def test_all_linear_reaches_every_layer_of_a_llama() -> None:
    told = trained_parts(fresh_adapter(build("llama"), LoraConfig(r=2), "0" * 64, seed=1))
    assert told["modules"] == 2 * 7
    sides = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert told["parameters"] == 2 * sum(2 * (a + b) for a, b in sides)
    assert told["total_parameters"] == sum(p.numel() for p in build("llama").parameters())
    assert told["share"] == pytest.approx(told["parameters"] / told["total_parameters"], abs=1e-6)
    assert told["untouched"] == {}


def test_experts_that_are_one_tensor_are_named() -> None:
    told = trained_parts(fresh_adapter(build("gpt_oss"), LoraConfig(), "0" * 64, seed=1))
    experts = sum(p.numel() for name, p in build("gpt_oss").named_parameters() if ".experts." in name)
    assert told["untouched"]["model.layers.*.mlp.experts"] == experts
    assert told["modules"] == 2 * 4


def test_a_full_fine_tuning_trains_all() -> None:
    model = build("opt").requires_grad_(True)
    told = trained_parts(model)
    assert (told["parameters"], told["share"], told["untouched"]) == (model.num_parameters(), 1.0, {})
