"""The tiny example's policy: a Llama of about 100,000 parameters, trained on the grammar in seconds."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft_core.examples.checkpoints import save_checkpoint
from raft_core.examples.stages import Built, Progress
from raft_core.examples.tiny_grammar import draw_review, vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 2304
END, UNKNOWN = "<|end|>", "<|unknown|>"
STEPS, BATCH, LEARNING_RATE = 200, 64, 1e-2
HIDDEN, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 128


def build_policy(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """Train and save model and tokenizer to ``out/policy``; the bytes depend on the processor type, not its cores."""
    import torch

    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(SEED)
        tokenizer = make_tokenizer()
        model = _make_model(len(tokenizer), tokenizer.eos_token_id)
        loss = _train(model, tokenizer)
    save_checkpoint(model, tokenizer, out / "policy")
    parameters = sum(weight.numel() for weight in model.parameters())
    return Built(measured={"parameters": parameters, "steps": STEPS, "loss": round(loss, 4)})


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """One token per word, with the space before it; decoding gives back the text for words of the grammar."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate([END, UNKNOWN, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]|\s"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _make_model(num_tokens: int, end: int) -> "LlamaForCausalLM":
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    return LlamaForCausalLM(config)


def _train(model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast") -> float:
    """Next-token cross entropy on fresh reviews, the end token included. Returns the last steps' mean loss."""
    import torch

    stream = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20, 1.5 * (STEPS - step) / STEPS)
    )
    losses = []
    model.train()
    for _ in range(STEPS):
        reviews = [draw_review(stream) for _ in range(BATCH)]
        batch = _pad([[*tokenizer.encode(r.prompt + r.remark), tokenizer.eos_token_id] for r in reviews])
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    return sum(losses[-20:]) / 20


def _pad(sequences: list[list[int]]) -> dict[str, "torch.Tensor"]:
    """Right-padded ids, mask and labels; padding is masked by length, never by its token."""
    import torch

    width = max(map(len, sequences))
    rows: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids in sequences:
        missing = width - len(ids)
        rows["input_ids"].append(ids + [0] * missing)
        rows["attention_mask"].append([1] * len(ids) + [0] * missing)
        rows["labels"].append(ids + [-100] * missing)
    return {name: torch.tensor(values) for name, values in rows.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, so that sums are added in the same order on any number of cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
