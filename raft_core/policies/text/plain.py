"""Check the JSON files of a model folder before any library reads them: they may come from anybody.

transformers follows any nesting, and creates as many layers and as large a table as a file asks for.
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
"""Limit of every other number that is a size: vocabularies have some hundred thousand entries."""
_SIZES = ("size", "dim", "heads", "embd", "d_model", "d_ff", "d_inner", "width", "experts")


def plain_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder. Raises InputError for numbers that no real model has.

    The other files that transformers reads as JSON are checked as well.
    """
    path = folder / "config.json"
    try:
        fields = read_object(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"config.json in {folder} cannot be read",
            got=error,
            expected="the config.json of a model in transformers format",
            hint="copy it from where the model came from, or set policy.model to the folder that contains it",
        ) from error
    if strange := next(_strange(fields), None):
        raise InputError(
            f"{path} describes a model of impossible size",
            got=strange,
            expected=f"at most {MAX_LAYERS:,} layers, and sizes of at most {MAX_SIZE:,}",
            hint="download it again from a source that you trust",
        )
    for name in OTHERS:
        try:
            parse_json(read_bounded(folder / name, MAX_BYTES), any_number=True)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder / name} cannot be read",
                got=error,
                expected="a JSON file",
                hint="copy it from where the model came from",
            ) from error
    return fields


def _strange(fields: Any, key: str = "") -> Iterator[str]:
    """``key: number`` of every number that is too large for its key, at any depth that ``plain_json`` allows."""
    if isinstance(fields, dict):
        for name, inner in fields.items():
            yield from _strange(inner, str(name))
    elif isinstance(fields, list):
        if "layer" in key and len(fields) > MAX_LAYERS:
            yield f"{key}: a list of {len(fields):,}"
        for inner in fields:
            yield from _strange(inner, key)
    elif isinstance(fields, int | float) and not isinstance(fields, bool):
        most = MAX_LAYERS if key.rpartition("_")[2] in ("layers", "layer") else MAX_SIZE
        is_size = most == MAX_LAYERS or any(part in key for part in _SIZES)
        if is_size and not -most <= fields <= most:
            yield f"{key}: {fields!r:.40}"
