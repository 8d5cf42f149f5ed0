"""A random Llama of some 100,000 parameters with a word-level tokenizer: made in place, no download."""

import atexit
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOME = Path(tempfile.mkdtemp(prefix="raft-tests-"))
"""Prefect's database: of this process and its children, so that workers share none and the user's is left alone."""
atexit.register(shutil.rmtree, HOME, ignore_errors=True)  # the first: what is registered later ends before
os.environ["PREFECT_HOME"] = str(HOME / "prefect")
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "600"

WORDS = [f" w{i}" for i in range(120)]


def pytest_configure() -> None:
    """A background job of a shell ignores Ctrl-C, and so would every process that a test means to interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """Prefect says at the exit that its server stops, to a stream that pytest has closed by then."""
    logging.raiseExceptions = False


def _tokenizer() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(["<unk>", "<eos>", ".", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]|\s"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """``make(folder, eos=…, tie=…, context=…, seed=…, chat_template=…)`` writes a random checkpoint, pad = eos.

    ``special``: special tokens that the tokenizer has besides; ``padding``: rows of logits beyond the tokenizer.
    """

    def make(
        folder: Path,
        *,
        eos: int | list[int] = 1,
        tie: bool = True,
        context: int = 64,
        seed: int = 0,
        chat_template: str | None = None,
        special: tuple[str, ...] = (),
        padding: int = 0,
    ) -> Path:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from raft_core.examples.checkpoints import save_checkpoint

        tokenizer = _tokenizer()
        tokenizer.chat_template = chat_template
        tokenizer.add_tokens(list(special), special_tokens=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = LlamaConfig(
                vocab_size=len(tokenizer) + padding,
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=context,
                tie_word_embeddings=tie,
                bos_token_id=None,
                eos_token_id=eos,
                pad_token_id=1,
                initializer_range=0.08,
            )
            model = LlamaForCausalLM(config)
        save_checkpoint(model, tokenizer, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one such checkpoint; read-only by convention."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "model")
