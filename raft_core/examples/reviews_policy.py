"""The warm start of the reviews example: a short SFT of SmolLM2 on real review sentences (paper, section 4.1).

The training is an ordinary fine-tuning of this pipeline on a table of real sentences instead of
selected samples; its adapter is merged, so that a run starts from a checkpoint without adapter.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_core.config.finetuning import FinetuningConfig, LoraConfig
from raft_core.config.policy import TextPolicyConfig
from raft_core.examples.checkpoints import quiet, save_checkpoint
from raft_core.examples.json_lines import read_lines
from raft_core.examples.stages import Built, Progress
from raft_core.files.artifacts import artifact
from raft_core.policies.base import FinetuneJob, Modality, modality
from raft_core.records.tables import SELECTED, to_table, write_table
from raft_core.types import Artifact, Policy, content_id

SEED = 2304
NUM_MEASURED = 128
SFT = FinetuningConfig(
    lora=LoraConfig(r=8, alpha=16), learning_rate=1e-3, schedule="linear", batch_size=24, epochs=1, loss_temperature=1.0
)


def build_policy(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """Write ``out/policy``: the merged checkpoint. Measures the perplexity of held-out sentences before and after."""
    base = artifact(inputs["pretrained"] / "pretrained")
    config = TextPolicyConfig(model=str(base.path))
    text = modality("text")
    sentences = (inputs["data"] / "perplexity.txt").read_text(encoding="utf-8").splitlines()[:NUM_MEASURED]
    before = _perplexity(text, Policy(base.path, base.digest), sentences)
    progress(f"warm start: perplexity of real sentences {before:.1f} before")
    with tempfile.TemporaryDirectory(dir=out) as folder:
        scratch = Path(folder)
        selected = scratch / "selected.parquet"
        rows = _rows(base, read_lines(inputs["data"] / "sft.jsonl"))
        write_table(selected, to_table(SELECTED, rows), SELECTED)
        result = text.trainer.fit(
            FinetuneJob(
                policy=Policy(base.path, base.digest),
                config=config,
                finetuning=SFT,
                selected=selected,
                loss_temperature=1.0,
                seed=SEED,
                iteration=0,
                iterations=1,
                out=scratch / "adapter",
                scratch=scratch / "training",
            )
        )
        adapter = artifact(scratch / "adapter")
        text.checkpoint.merge(Policy(adapter.path, adapter.digest, base), config, scratch / "merged")
        _save_in_bfloat16(scratch / "merged", out / "policy")
    saved = artifact(out / "policy")
    after = _perplexity(text, Policy(saved.path, saved.digest), sentences)
    progress(f"warm start: perplexity of real sentences {after:.1f} after")
    return Built(
        measured={
            "num_sentences": result.num_sequences,
            "num_tokens": result.num_tokens,
            "perplexity_before": round(before, 2),
            "perplexity_after": round(after, 2),
            "first_loss": round(result.log[0]["loss"], 4),
            "last_loss": round(result.log[-1]["loss"], 4),
        }
    )


def _rows(base: Artifact, sentences: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """SELECTED rows. Prompt and completion are encoded separately, as in sampling; the end token is appended."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True)
    rows = []
    for sentence in sentences:
        completion_ids = [*tokenizer.encode(sentence["completion"]), tokenizer.eos_token_id]
        rows.append(
            {
                "sample_id": content_id("sft", sentence["prompt"], sentence["completion"]),
                "prompt_id": content_id("prompt", sentence["prompt"], None),
                "source": sentence["source"],
                "reward": 0.0,
                "rank": 0,
                "weight": 1.0,
                "prompt": sentence["prompt"],
                "completion": sentence["completion"],
                "prompt_token_ids": tokenizer.encode(sentence["prompt"]),
                "completion_token_ids": completion_ids,
                "sampling_logprobs": [0.0] * len(completion_ids),
                "finish_reason": "stop",
            }
        )
    return rows


def _save_in_bfloat16(merged: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.bfloat16, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(merged, local_files_only=True)
    save_checkpoint(model, tokenizer, out)


def _perplexity(text: Modality, policy: Policy, sentences: Sequence[str]) -> float:
    with text.likelihood.open(policy, TextPolicyConfig(model=str(policy.path)), dtype="bfloat16") as opened:
        logprobs = [value for values in opened.text_logprobs(sentences) for value in values]
    return math.exp(-sum(logprobs) / len(logprobs))
