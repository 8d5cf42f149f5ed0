"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) as files.

``adapter_config.json`` names its base by digest ("sha256:…"), never by a path. So an adapter has the same bytes on
every machine, and an adapter on the wrong base is refused.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

from raft_core.config.finetuning import LoraConfig
from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import canonical_json
from raft_core.files.plain_json import read_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def apply_adapter(model: Any, folder: Path, base_digest: str, *, trainable: bool) -> Any:
    """``model`` with the adapter in ``folder`` applied (a PeftModel).

    Raises IntegrityError if the adapter was trained on another base, InputError if the folder holds no adapter.
    """
    from peft import LoraConfig as PeftConfig
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    fields = _read_config(folder)
    belongs_to = str(fields.get("base_model_name_or_path"))
    if belongs_to.startswith("sha256:") and belongs_to != f"sha256:{base_digest}":
        raise IntegrityError(
            f"the adapter in {folder} was trained on another base model",
            got=f"base model sha256:{base_digest}",
            expected=f"base model {belongs_to}",
            hint="use the base model that the adapter was trained on",
        )
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise IntegrityError(
            f"the adapter's weights in {folder} cannot be read",
            got=error,
            expected=f"a complete {WEIGHTS_FILE}",
            hint="copy or download the adapter again",
        ) from error
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = not trainable
    config.base_model_name_or_path = belongs_to
    adapted = _adapted(model, config)
    _load(adapted, weights, folder)
    return adapted


def fresh_adapter(model: Any, config: LoraConfig, base_digest: str, seed: int) -> Any:
    """``model`` with a new adapter that does not change it yet; its A matrices are drawn from ``seed``."""
    from peft import LoraConfig as PeftConfig

    peft_config = PeftConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        task_type="CAUSAL_LM",
        target_modules=config.targets if isinstance(config.targets, str) else list(config.targets),
    )
    peft_config.base_model_name_or_path = f"sha256:{base_digest}"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return _adapted(model, peft_config)
        except ValueError as error:
            raise InputError(
                "finetuning.lora.targets match no layer of this model",
                got=error,
                expected="names of linear layers of the model, or all-linear",
                hint="set finetuning.lora.targets: all-linear",
            ) from error


def check_same_shape(adapted: Any, config: LoraConfig) -> None:
    """Raise InputError unless the policy's adapter has the rank and scale that the configuration describes."""
    peft_config = adapted.peft_config["default"]
    if (peft_config.r, peft_config.lora_alpha) != (config.r, config.alpha):
        raise InputError(
            "the policy's adapter does not have the settings of finetuning.lora",
            got=f"r {peft_config.r}, alpha {peft_config.lora_alpha}",
            expected=f"r {config.r}, alpha {config.alpha}",
            hint=f"set finetuning.lora.r: {peft_config.r} and finetuning.lora.alpha: {peft_config.lora_alpha} to train "
            "this adapter further, or merge it (raft merge) and start a new one from the result",
        )


def save_adapter(adapted: Any, state_dict: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the adapter with the trained tensors in ``state_dict`` (named as in the model)."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    weights = get_peft_model_state_dict(adapted, state_dict=state_dict, save_embedding_layers=False)
    plain = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(plain, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    fields = adapted.peft_config["default"].to_dict()
    fields["inference_mode"] = True
    (folder / CONFIG_FILE).write_bytes(canonical_json(_plain(fields)))


def _adapted(model: Any, peft_config: Any) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)  # and corrected
        # peft asks a model for a property that transformers renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return PeftModel(model, peft_config)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(inner) for inner in value)
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(getattr(value, "value", value))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        fields = read_json(folder / CONFIG_FILE)
        if fields["peft_type"] != "LORA":
            raise ValueError(f"peft_type {fields['peft_type']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"no LoRA adapter in {folder}",
            got=error,
            expected=f"{CONFIG_FILE} with peft_type LORA, and {WEIGHTS_FILE}",
            hint="copy the adapter again, or use a LoRA adapter",
        ) from error
    return dict(fields)


def _load(adapted: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(adapted, weights)
    missing = [name for name in result.missing_keys if "lora_" in name]
    if result.unexpected_keys or missing:
        raise IntegrityError(
            f"the adapter in {folder} does not fit its base model",
            got=f"unknown tensors {result.unexpected_keys[:3]}, missing tensors {missing[:3]}",
            expected="one tensor for each adapted layer of the base model",
            hint="copy the adapter again, or use the base model that it was trained on",
        )
