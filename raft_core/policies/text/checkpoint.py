"""Checkpoints as files: check that one is complete, and write one that loads like any other."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import folder_files, fsync_folder, model_files
from raft_core.files.plain_json import open_regular, parse_object, read_json

NOT_COPIED = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.pickle",
    "*.ckpt",
    "*.joblib",
    "*.npy",
    "*.npz",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.index.json",
    "config.json",
)
"""Weights and files that are written again; everything else (tokenizer, templates, code) is copied unchanged."""
CODE_CARRIERS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib")
"""Usual names of pickles. Opening a pickle runs any code in it, so none is opened."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The safetensors library has the same limit."""
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


Shapes = dict[str, tuple[int, ...]]
"""Names of tensors and their shapes."""


def check_weights(folder: Path) -> Shapes:
    """The tensors of the checkpoint in ``folder``. Only headers are read, so this is fast for models of any size.

    Raises InputError without safetensors, IntegrityError if a file is cut off or a tensor of the index is missing.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.exists():  # in transformers' order
        return safetensors_shapes(whole)
    if not index.exists():
        others = (*CODE_CARRIERS, "*.gguf")
        found = sorted(file.name for file in folder.iterdir() if any(map(file.match, others)))
        raise InputError(
            f"no safetensors weights in {folder}",
            got=", ".join(found) or "no weights at all",
            expected="model.safetensors, or shards with model.safetensors.index.json (pickles can contain code and are "
            "never opened)",
            hint="download the safetensors weights of this model; or, if you trust these files, load the model with "
            "transformers and call save_pretrained()",
        )
    return _check_shards(index)


def _check_shards(index: Path) -> Shapes:
    try:
        weight_map: dict[str, str] = read_json(index)["weight_map"]
        by_shard = {shard: {name for name, s in weight_map.items() if s == shard} for shard in set(weight_map.values())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"the index of the weights cannot be read: {index}",
            got=error,
            expected='a JSON object with "weight_map"',
            hint="copy or download it again",
        ) from error
    shapes: Shapes = {}
    for shard in sorted(by_shard):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise IntegrityError(
                f"{index} names something other than a weights file in its own folder",
                got=repr(shard),
                expected="names of .safetensors files in the same folder",
                hint="copy or download the checkpoint again",
            )
        path = index.parent / shard
        if not path.is_file():
            raise IntegrityError(
                f"a weights file is missing: {path}",
                expected=f"every file that {index.name} lists",
                hint="copy or download the missing file",
            )
        found = safetensors_shapes(path)
        if absent := sorted(by_shard[shard] - found.keys()):
            raise IntegrityError(
                f"tensors are missing in {path}",
                got=f"no {', '.join(absent[:3])}",
                expected=f"the tensors that {index.name} lists for this file",
                hint="copy or download it again",
            )
        shapes |= found
    return shapes


def safetensors_shapes(path: Path) -> Shapes:
    """The tensors in a safetensors file. Raises IntegrityError if it is cut off, in another format or manipulated.

    The header must describe the rest of the file byte for byte: no gap, no overlap, no tensor of the wrong size.
    """
    size = path.stat().st_size
    try:
        with open_regular(path) as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 0 < header_size <= min(size - 8, MAX_HEADER_BYTES):
                raise ValueError(f"a header of {header_size} bytes in a file of {size}")
            header: dict[str, Any] = parse_object(file.read(header_size))
        header.pop("__metadata__", None)
        needed = 8 + header_size + _described_bytes(header)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise IntegrityError(
            f"not a valid safetensors file: {path}",
            got=error,
            expected="a header that describes the tensors in the file",
            hint="copy or download it again; if it has only some hundred bytes (a Git LFS pointer), run `git lfs pull`",
        ) from error
    if size != needed:
        raise IntegrityError(
            f"the weights file is incomplete: {path}" if size < needed else f"the weights file is too long: {path}",
            got=f"{size} bytes",
            expected=f"{needed} bytes according to its header",
            hint="copy or download it again",
        )
    return {name: tuple(tensor["shape"]) for name, tensor in header.items()}


def _described_bytes(header: dict[str, Any]) -> int:
    """Total size in bytes of the tensors of a header, which must follow each other. Raises ValueError."""
    end = 0
    for name, tensor in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        start, stop = tensor["data_offsets"]
        numbers = [start, stop, *tensor["shape"]]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"tensor {name[:80]!r} with shape {tensor['shape']} at {tensor['data_offsets']}")
        if start != end:
            raise ValueError(f"tensor {name[:80]!r} starts at byte {start} instead of {end}")
        if (width := _BITS.get(tensor["dtype"])) is not None and (stop - start) * 8 != math.prod(
            tensor["shape"]
        ) * width:
            raise ValueError(f"tensor {name[:80]!r} of {stop - start} bytes with shape {tensor['shape']}")
        end = max(start, stop)
    return end


def save_full(model: Any, state_dict: dict[str, Any] | None, source: Path, folder: Path) -> None:
    """Write a whole checkpoint: weights and configuration of ``model``, all other files copied from ``source``."""
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    kept, model.generation_config = model.generation_config, GenerationConfig()
    model.save_pretrained(folder, state_dict=state_dict)
    model.generation_config = kept
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in model_files(source):
        if not any(file.match(pattern) for pattern in NOT_COPIED):
            copy = folder / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)


def make_durable(folder: Path) -> None:
    """fsync every file below ``folder``, and the folder."""
    for file in folder_files(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    fsync_folder(folder)
