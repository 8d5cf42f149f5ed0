"""The JSON of a model folder, looked at before any library reads it: a stranger wrote it.

transformers follows whatever nests, and makes a list entry a layer and a table of any size without asking.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raft_core.errors import InputError
from raft_core.files.plain_json import MAX_BYTES, parse_json, read_bounded, read_object

OTHERS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "model.safetensors.index.json",
)
MAX_LAYERS = 4096
MAX_SIZE = 1 << 26
"""Of any other number that a configuration calls a size: vocabularies end at some hundred thousand."""
_SIZES = ("size", "dim", "heads", "embd", "d_model", "d_ff", "d_inner", "width", "experts")


def plain_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder. Raises InputError for what no model of this world says of itself.

    The other files that transformers reads as JSON are looked at as well.
    """
    path = folder / "config.json"
    try:
        told = read_object(path)
    except (OSError, ValueError) as error:
        raise InputError(f"no readable config.json in {folder}", got=error, expected="a JSON object") from error
    if strange := next(_strange(told), None):
        raise InputError(
            f"{path} describes no model that can be loaded",
            got=strange,
            expected=f"at most {MAX_LAYERS:,} layers, and sizes of at most {MAX_SIZE:,}",
            hint="download it again from where you trust it",
        )
    for name in OTHERS:
        try:
            parse_json(read_bounded(folder / name, MAX_BYTES), any_number=True)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise InputError(f"{folder / name} cannot be read", got=error, expected="plain JSON") from error
    return told


def _strange(told: Any, key: str = "") -> Iterator[str]:
    """``key: number`` of every number that is too large for its key; nested as deeply as ``plain_json`` lets it."""
    if isinstance(told, dict):
        for name, inner in told.items():
            yield from _strange(inner, str(name))
    elif isinstance(told, list):
        if "layer" in key and len(told) > MAX_LAYERS:
            yield f"{key}: a list of {len(told):,}"
        for inner in told:
            yield from _strange(inner, key)
    elif isinstance(told, int | float) and not isinstance(told, bool):
        most = MAX_LAYERS if key.rpartition("_")[2] in ("layers", "layer") else MAX_SIZE
        is_size = most == MAX_LAYERS or any(part in key for part in _SIZES)
        if is_size and not -most <= told <= most:
            yield f"{key}: {told!r:.40}"
