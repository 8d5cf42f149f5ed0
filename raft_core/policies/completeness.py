"""Check that a checkpoint holds exactly the tensors of its model.

transformers fills a tensor that is missing in a checkpoint with random numbers and only prints a report; such a model
is different at every load. Code that loads a model therefore asks for ``output_loading_info`` and passes it to
``check_complete``.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raft_core.errors import InputError

SHOWN = 3
"""Number of tensors of one kind that an error names."""
BUFFERS = re.compile(
    r"(^|\.)((attn|attention|self_attn|self_attention)\.(bias|masked_bias|causal_mask)"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids)$"
)
"""Constants that older versions of transformers saved with the weights; today they are computed and never read."""
PEFT_NAMES = re.compile(r"(^|\.)(base_model\.model|base_layer|lora_[AB]|modules_to_save)\.")
HEADS = re.compile(r"(^|\.)(lm_head|embed_out|cls\.predictions|score|classifier|head|decoder)\.")


def check_complete(folder: Path, loading: Mapping[str, Collection[Any]], *, model: str) -> None:
    """Raise InputError unless the checkpoint has every tensor of ``model``, in the right shape, and no other tensor.

    ``loading`` is transformers' loading info: it leaves out tied weights and what a class declares ignorable.
    """
    missing = sorted(loading["missing_keys"])
    mismatched = sorted(loading["mismatched_keys"])
    unexpected = sorted(name for name in loading["unexpected_keys"] if not BUFFERS.search(name))
    if not missing and not mismatched and not unexpected:
        return
    shapes = [f"{name}: {list(there)} instead of {list(wanted)}" for name, there, wanted in mismatched]
    faults = {"missing": missing, "of the wrong shape": shapes, "unexpected": unexpected}
    raise InputError(
        f"the weights in {folder} do not match its config.json (model class {model})",
        got="; ".join(f"{len(names)} tensors {fault} ({_shown(names)})" for fault, names in faults.items() if names),
        expected="every tensor of the model and no other; a missing one would get random values at every load",
        hint=_advice(missing, mismatched, unexpected),
    )


@contextmanager
def without_report() -> Iterator[None]:
    """Silence transformers' own report on tensors and its progress bar: ``check_complete`` reports what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _advice(missing: list[str], mismatched: list[Any], unexpected: list[str]) -> str:
    if any(PEFT_NAMES.search(name) for name in unexpected):
        return (
            "merge the PEFT adapter that these tensor names belong to: load it on its base, call `merge_and_unload()`, "
            "then `save_pretrained(FOLDER)`, and use that folder"
        )
    if missing and all(HEADS.search(name) for name in missing) and not mismatched:
        return "use a checkpoint that includes the trained output head; this one has only the layers below it"
    return "copy or download the whole checkpoint again, including its own config.json"


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:120] for name in names[:SHOWN]) + more
