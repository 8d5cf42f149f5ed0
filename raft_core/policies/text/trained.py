"""What a fine-tuning trains; and switching off the model's own dropout."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

Restore = Callable[[], None]
NOISE = ("drop", "jitter")
"""Parts of the names of attributes that add noise in training: dropout, pdrop, layerdrop, drop_path, jitter."""


def without_dropout(model: nn.Module) -> Restore:
    """Switch the model's own dropout off: dropout modules, attributes of layers, and values of the configuration.

    The dropout of an adapter is kept: ``finetuning.lora.dropout`` sets it. Returns a function that restores the
    configuration's values, so that a saved checkpoint keeps them.
    """
    changed: list[tuple[Any, str, float]] = []
    configs: dict[int, Any] = {}
    for path, module in model.named_modules():
        if "lora_dropout" in path.split("."):
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _silence(module)
        if (config := getattr(module, "config", None)) is not None:
            configs |= {id(part): part for part in _parts(config)}
    for config in configs.values():
        changed += _silence(config)

    def restore() -> None:
        for owner, name, value in changed:
            setattr(owner, name, value)

    return restore


def trained_parts(model: nn.Module) -> dict[str, Any]:
    """{modules, parameters, total_parameters, share, untouched}: how much of ``model`` is trained, and what is not.

    With an adapter ``modules`` counts the layers that have one. ``untouched`` names modules with weight matrices of
    their own that no adapter covers ("layers.*" stands for all layers): for example experts that are one tensor.
    Embeddings, norms and the head never get an adapter and are not listed.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    total = sum(_size(p) for name, p in model.named_parameters() if not adapted or ".lora_" not in name)
    parameters = sum(map(_size, trained))
    return {
        "modules": len(adapted) or sum(any(p.requires_grad for p in m.parameters(False)) for m in model.modules()),
        "parameters": parameters,
        "total_parameters": total,
        "share": round(parameters / total, 6),
        "untouched": _untouched(model, adapted) if adapted else {},
    }


def _untouched(model: Any, adapted: set[str]) -> dict[str, int]:
    """Name of each kind of module → its parameters, summed over the kind."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    kinds: dict[str, int] = {}
    for name, module in base.named_modules():
        inside = any(part in name for part in (".base_layer", ".lora_"))
        if inside or module is head or isinstance(module, nn.Embedding) or hasattr(module, "lora_A"):
            continue
        if size := sum(_size(p) for p in module.parameters(False) if len(_shape(p)) >= 2):
            kind = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
            kinds[kind] = kinds.get(kind, 0) + size
    return kinds


def _silence(owner: Any) -> list[tuple[Any, str, float]]:
    """Set every noise probability of ``owner`` to 0; returns the previous values."""
    found = [
        (owner, name, value)
        for name, value in list(vars(owner).items())
        if isinstance(value, float) and value != 0 and any(part in name for part in NOISE)
    ]
    for _, name, _ in found:
        setattr(owner, name, 0.0)
    return found


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and its nested configurations."""
    yield config
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _parts(value)


def _size(parameter: nn.Parameter) -> int:
    """Number of elements, also of a parameter that ZeRO-3 has split."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _shape(parameter: nn.Parameter) -> Any:
    return getattr(parameter, "ds_shape", parameter.shape)
