"""RAFT in one file, without production: transformers' ``generate`` and ``Trainer``, peft, and nothing else.

``benchmarks.iteration`` compares the pipeline with it: it is what an engineer would write in an afternoon. It samples,
scores and trains like the pipeline (same prompts, K, tokens, stop strings, LoRA, batches, learning rates, precision),
but writes no tables, validates nothing, tracks nothing and cannot be resumed.

It samples from a merged copy in the sampling precision, because ``generate`` on a PEFT-wrapped model with a frozen tied
head copies the head for every sequence, which would double its time.

    python -m benchmarks.plain_loop SETTINGS.json OUT.json
"""

import copy
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy

Score = Callable[[list[str], list[str]], list[float]]
"""Prompts and completions to rewards."""


@dataclass(frozen=True)
class Settings:
    """Everything the loop needs; paths as text. ``prompts`` are in the order in which they are drawn."""

    policy: str
    reward: str
    prompts: list[str]
    held_out: list[str]
    perplexity_texts: list[str]
    out: str
    iterations: int
    prompts_per_iteration: int
    samples_per_prompt: int
    batch_prompts: int
    temperature: float
    max_new_tokens: int
    stop: list[str]
    sampling_dtype: str
    training_dtype: str
    lora_r: int
    lora_alpha: int
    learning_rate: float
    batch_size: int
    epochs: int
    adam_betas: list[float]
    max_grad_norm: float
    seed: int = 0


@dataclass(frozen=True)
class Response:
    """One sampled completion."""

    prompt: str
    text: str
    prompt_ids: list[int]
    ids: list[int]


def align(settings: Settings, score: Score, *, evaluate: bool) -> list[dict[str, Any]]:
    """Run the loop; one row per iteration: ``seconds`` by step, tokens, rewards. Row −1: the base, if evaluated."""
    torch.manual_seed(settings.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings.policy, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(settings.policy, dtype=torch.float32).to(device)
    base = copy.deepcopy(model).to(getattr(torch, settings.sampling_dtype)).eval() if evaluate else None
    model = get_peft_model(
        model, LoraConfig(r=settings.lora_r, lora_alpha=settings.lora_alpha, target_modules="all-linear")
    )
    rows = []
    if base is not None:
        rows.append({"iteration": -1, "seconds": {}, **_evaluated(base, base, tokenizer, settings, score)})
    for iteration in range(settings.iterations):
        row = run_iteration(model, tokenizer, settings, score, iteration)
        if base is not None:
            row |= _evaluated(_merged_copy(model, settings), base, tokenizer, settings, score)
        rows.append(row)
    return rows


def run_iteration(model: Any, tokenizer: Any, settings: Settings, score: Score, iteration: int) -> dict[str, Any]:
    """Algorithm 1, once: sample, rank, train ``model`` in place."""
    prompts = settings.prompts[iteration * settings.prompts_per_iteration :][: settings.prompts_per_iteration]
    clock = [time.monotonic()]
    responses = sample(_merged_copy(model, settings), tokenizer, prompts, settings.samples_per_prompt, settings)
    clock.append(time.monotonic())
    rewards = score([r.prompt for r in responses], [r.text for r in responses])
    best = _best_of_each(responses, rewards, settings.samples_per_prompt)
    clock.append(time.monotonic())
    train(model, tokenizer, best, settings, iteration)
    model.save_pretrained(Path(settings.out) / f"{iteration:03d}")
    clock.append(time.monotonic())
    sampled, scored, trained = (later - earlier for earlier, later in pairwise(clock))
    return {
        "iteration": iteration,
        "seconds": {"sample": sampled, "score": scored, "finetune": trained},
        "tokens": sum(len(r.ids) for r in responses),
        "candidates_reward": sum(rewards) / len(rewards),
    }


def sample(
    model: Any, tokenizer: Any, prompts: Sequence[str], samples_per_prompt: int, settings: Settings
) -> list[Response]:
    """Completions ordered by prompt, by ``generate``."""
    responses = []
    for start in range(0, len(prompts), settings.batch_prompts):
        batch = list(prompts[start : start + settings.batch_prompts])
        inputs = tokenizer(batch, return_tensors="pt", padding=True).to(model.device)
        width = inputs["input_ids"].shape[1]
        stops = transformers.StoppingCriteriaList([StopAfter(tokenizer, settings.stop, width)] if settings.stop else [])
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=settings.temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=settings.max_new_tokens,
                num_return_sequences=samples_per_prompt,
                pad_token_id=tokenizer.pad_token_id,
                stopping_criteria=stops,
            )
        eos = model.generation_config.eos_token_id
        eos = {eos} if isinstance(eos, int) else set(eos or ())
        for row, ids in enumerate(output[:, width:].tolist()):
            prompt = row // samples_per_prompt
            real = inputs["input_ids"][prompt][inputs["attention_mask"][prompt].bool()].tolist()
            responses.append(_response(batch[prompt], real, ids, eos, tokenizer, settings.stop))
    return responses


class StopAfter(transformers.StoppingCriteria):  # type: ignore[misc]
    """A row is done when its last tokens hold a stop string (``stop_strings`` does not know every tokenizer)."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], prompt_width: int) -> None:
        self.tokenizer, self.stop, self.prompt_width = tokenizer, stop, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        ends = self.tokenizer.batch_decode(input_ids[:, self.prompt_width :][:, -4:], skip_special_tokens=True)
        return torch.tensor([any(text in end for text in self.stop) for end in ends], device=input_ids.device)


def train(model: Any, tokenizer: Any, best: Sequence[Response], settings: Settings, iteration: int) -> None:
    """Supervised fine-tuning on response tokens, logits divided by the sampling temperature."""
    rows = [
        {
            "input_ids": r.prompt_ids + r.ids,
            "attention_mask": [1] * len(r.prompt_ids + r.ids),
            "labels": [-100] * len(r.prompt_ids) + r.ids,
        }
        for r in best
    ]
    num_steps = settings.epochs * -(-len(rows) // settings.batch_size)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=settings.learning_rate, betas=(settings.adam_betas[0], settings.adam_betas[1]), weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: max(0.0, 1 - (iteration + step / num_steps) / settings.iterations)
    )
    arguments = transformers.TrainingArguments(
        output_dir=settings.out,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        bf16=settings.training_dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        max_grad_norm=settings.max_grad_norm,
        disable_tqdm=True,
        seed=settings.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
    )
    model.train()
    TemperedTrainer(
        settings.temperature,
        model=model,
        args=arguments,
        train_dataset=rows,
        optimizers=(optimizer, schedule),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
    ).train()


class TemperedTrainer(transformers.Trainer):  # type: ignore[misc]
    """A Trainer whose loss divides the logits by the temperature of the samples."""

    def __init__(self, temperature: float, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = temperature

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Mean cross entropy of the response tokens."""
        labels = inputs.pop("labels")[:, 1:]
        outputs = model(**inputs)
        learnt = labels != -100
        logits = outputs.logits[:, :-1][learnt].float() / self.temperature
        loss = cross_entropy(logits, labels[learnt])
        return (loss, outputs) if return_outputs else loss


@torch.inference_mode()
def text_logprobs(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[list[int], list[int]]], temperature: float
) -> list[float]:
    """Σ log p of the second ids of each pair, given the first, at ``temperature``."""
    totals = []
    for start in range(0, len(pairs), 32):
        part = pairs[start : start + 32]
        width = max(len(before) + len(after) for before, after in part)
        ids = torch.tensor([b + a + [0] * (width - len(b + a)) for b, a in part], device=model.device)
        mask = torch.tensor([[1] * len(b + a) + [0] * (width - len(b + a)) for b, a in part], device=model.device)
        logits = model(input_ids=ids, attention_mask=mask).logits.float() / temperature
        for row, (before, after) in enumerate(part):
            at = slice(len(before) - 1, len(before) + len(after) - 1)
            totals.append(-float(cross_entropy(logits[row, at], torch.tensor(after), reduction="sum")))
    return totals


def _evaluated(model: Any, base: Any, tokenizer: Any, settings: Settings, score: Score) -> dict[str, Any]:
    """Reward of one sample of each held-out prompt, KL to the base, perplexity of the real texts."""
    start = time.monotonic()
    responses = sample(model, tokenizer, settings.held_out, 1, settings)
    rewards = score([r.prompt for r in responses], [r.text for r in responses])
    pairs = [(r.prompt_ids, r.ids) for r in responses]
    here = text_logprobs(model, tokenizer, pairs, settings.temperature)
    there = here if model is base else text_logprobs(base, tokenizer, pairs, settings.temperature)
    encoded = [tokenizer(text).input_ids for text in settings.perplexity_texts]
    logprobs = text_logprobs(model, tokenizer, [(ids[:1], ids[1:]) for ids in encoded if len(ids) > 1], 1.0)
    tokens = sum(len(ids) - 1 for ids in encoded)
    return {
        "evaluate_seconds": time.monotonic() - start,
        "reward": sum(rewards) / len(rewards),
        "kl": sum(p - q for p, q in zip(here, there, strict=True)) / len(pairs),
        "perplexity": float(torch.tensor(-sum(logprobs) / tokens).exp()) if tokens else None,
    }


def _merged_copy(model: Any, settings: Settings) -> Any:
    """The merged model that is sampled; the adapter is not changed."""
    return copy.deepcopy(model).merge_and_unload().to(getattr(torch, settings.sampling_dtype)).eval()


def _response(
    prompt: str, prompt_ids: list[int], ids: list[int], eos: set[int], tokenizer: Any, stop: Sequence[str]
) -> Response:
    """Cut what ``generate`` wrote after the end; padding looks like an end if both use the same token."""
    end = next((i for i, token in enumerate(ids) if token in eos), len(ids))
    text = tokenizer.decode(ids[:end], skip_special_tokens=True)
    found = [text.find(s) + len(s) for s in stop if s in text]
    if found:
        return Response(prompt, text[: min(found)], prompt_ids, ids[:end])
    return Response(prompt, text, prompt_ids, ids[: end + 1])


def _best_of_each(responses: Sequence[Response], rewards: Sequence[float], k: int) -> list[Response]:
    best = (max(range(start, start + k), key=rewards.__getitem__) for start in range(0, len(responses), k))
    return [responses[i] for i in best]


def classifier(folder: str) -> Score:
    """The raw output of a single-output sequence-classification model, in batches of like length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def score(prompts: list[str], completions: list[str]) -> list[float]:
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        scores = [0.0] * len(texts)
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            inputs = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True)
            for i, value in zip(rows, model(**inputs).logits[:, 0].tolist(), strict=True):
                scores[i] = value
        return scores

    return score


def lexicon(file: str) -> Score:
    """The mean score of a completion's words, out of lines of WORD<tab>SCORE."""
    scores = {word: float(score) for word, score in map(str.split, Path(file).read_text().splitlines())}

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        words = [re.findall(r"\w+", completion.casefold()) for completion in completions]
        return [sum(scores.get(word, 0.0) for word in row) / max(1, len(row)) for row in words]

    return score


def main() -> None:
    """Run the loop with the settings in SETTINGS.json, and evaluate every iteration."""
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    score = (classifier if Path(settings.reward).is_dir() else lexicon)(settings.reward)
    Path(sys.argv[2]).write_text(json.dumps(align(settings, score, evaluate=True)))


if __name__ == "__main__":
    main()
