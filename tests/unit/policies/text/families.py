"""Tiny, randomly initialised models of many architectures."""

from typing import Any

import torch
import transformers

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": {},
    "falcon": {},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4},
    "llama": {},
    "mistral": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "olmo2": {},
    "opt": OPT,
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "smollm3": {},
    "starcoder2": {},
    "stablelm": {},
}
TIED = {"bloom", "gemma", "gpt2", "opt", "starcoder2"}
"""Of these the trunk alone is the whole model: the head is the embedding."""
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2, "mamba_d_state": 8, "mamba_n_groups": 1}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
LEAKING: dict[str, dict[str, Any]] = {
    "biogpt": {},
    "bloom": {},
    "falcon": {},
    "gpt_oss": EXPERTS,
    "mpt": FAMILIES["mpt"],
    "opt": OPT,
    "xglm": {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 48},
}
"""Families whose masks do not look at ``position_ids``."""
STATEFUL: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 4, "time_step_rank": 4},
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "num_experts": 2,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "state_size": 8},
    "qwen3_5_text": {**LINEAR, "head_dim": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32, "attention_window_size": 16},
    "rwkv": {},
}


def build(family: str, **changes: Any) -> Any:
    """A model with large random weights, so that what leaks is seen."""
    known = {**FAMILIES, **LEAKING, **STATEFUL}
    config = transformers.CONFIG_MAPPING[family](**{**SMALL, **known.get(family, {}), **changes})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.3)
    return model
