"""Write a model as a plain transformers folder: config.json and one safetensors file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_checkpoint(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Save to ``folder``, which may not exist yet.

    Tied weights are stored once, and the tensors are sorted by name: the bytes depend on the model alone.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state, seen = {}, set()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.data_ptr() not in seen:
            state[name] = tensor.detach().cpu().contiguous()
            seen.add(tensor.data_ptr())
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports, which would warn about the intended new head."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
