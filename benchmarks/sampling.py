"""Tokens per second: the pipeline's sampling loop, plain ``generate``, and the machine's own matrix products.

    python -m benchmarks.sampling OUT.json [--config configs/reviews.yaml] [--batches 64 128 256] [--repeats 3]

Both decode the same prompts with the same model (merged, in the configuration's precision), K samples per prompt, in
one batch; they take turns. "with stops": the configuration's stop strings and end of sequence count, so rows end at
different lengths; only real tokens are counted. "fixed length": nothing ends before ``max_new_tokens``.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks import machine, plain_loop
from benchmarks.iteration import plain_settings
from benchmarks.page import table
from raft_core.config.loading import load_config
from raft_core.config.run import RaftConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.examples import examples_of, prepare
from raft_core.policies.base import modality
from raft_core.prompts.splits import draw, split_prompts
from raft_core.references import resolve
from raft_core.types import Prompt

NOTE = """\
K {k}, {dtype}, at most {tokens} tokens; tokens per second, medians of {repeats} turns. Each token needs a product
with every matrix of the model, so no decoder can be faster than these products at this batch size ("own matrices"),
or than the best rate of the machine ({square:,.0f} GFLOP/s on {size} × {size} {dtype} matrices; {fp32:,.0f} in
float32)."""


def main() -> None:
    """Measure, and write the result to OUT.json."""
    parser = argparse.ArgumentParser(description="Sampling against generate")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/reviews.yaml"))
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.out.write_text(json.dumps(measure(load_config(options.config), options.batches, options.repeats)))


def measure(config: RaftConfig, batches: list[int], repeats: int) -> dict[str, Any]:
    """Tokens per second at every batch (rows decoded together), with stops and at a fixed length."""
    for example in examples_of(config):
        prepare(example)
    sampling = config.sampling
    roles, stack = modality(config.policy.type), ExitStack()
    base = roles.checkpoint.base_policy(config.policy)
    policy = stack.enter_context(roles.open(base, config.policy, dtype=sampling.dtype))
    model: Any = policy.model  # type: ignore[attr-defined]
    tokenizer = AutoTokenizer.from_pretrained(resolve(config.policy.model), padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    k = sampling.samples_per_prompt
    pool = split_prompts(config.prompts, config.seed, resolve).train
    matrices = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    flops = 2 * sum(w.numel() for w in matrices)
    square = machine.matrix_rate(sampling.dtype)
    rows = []
    for batch in batches:
        prompts = draw(pool, max(1, batch // k), seed=config.seed, iteration=0)
        row: dict[str, Any] = {"batch": len(prompts) * k}
        for kind, changes in {"stops": {}, "fixed": {"stop": (), "min_new_tokens": sampling.max_new_tokens}}.items():
            changed = sampling.model_copy(update=changes)
            ours = _ours(policy, prompts, changed)
            plain = _plain(model, tokenizer, prompts, config.model_copy(update={"sampling": changed}))
            row[kind] = _turns({"ours": ours, "generate": plain}, repeats)
        row["own_matrices"] = row["batch"] / machine.linear_seconds(matrices, row["batch"])
        rows.append(row)
    return {
        "rows": rows,
        "square_gflops": square,
        "square_bound": square * 1e9 / flops,
        "float32_gflops": machine.matrix_rate("float32"),
        "parameters": flops // 2,
        "k": k,
        "dtype": sampling.dtype,
        "tokens": sampling.max_new_tokens,
        "repeats": repeats,
    }


def _turns(both: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Median tokens per second of each, taking turns; the first turn warms up and is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(repeats + 1):
        for name, run in both.items():
            start = time.monotonic()
            tokens = run()
            if turn:
                rates[name].append(tokens / (time.monotonic() - start))
    return {name: median(values) for name, values in rates.items()}


def _ours(policy: Any, prompts: list[Prompt], sampling: SamplingConfig) -> Callable[[], int]:
    def run() -> int:
        samples = policy.sample(prompts, sampling, samples_per_prompt=sampling.samples_per_prompt, seed=0)
        return sum(len(sample.completion_token_ids) for sample in samples)

    return run


def _plain(model: Any, tokenizer: Any, prompts: list[Prompt], config: RaftConfig) -> Callable[[], int]:
    settings = plain_settings(config, [p.text for p in prompts], [], [], Path())
    minimum = config.sampling.min_new_tokens

    def run() -> int:
        model.generation_config.min_new_tokens = minimum or None
        batch, k = settings.prompts, settings.samples_per_prompt
        whole = replace(settings, batch_prompts=len(batch))
        return sum(len(response.ids) for response in plain_loop.sample(model, tokenizer, batch, k, whole))

    return run


def render(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    note = NOTE.format(
        k=result["k"],
        dtype=result["dtype"],
        tokens=result["tokens"],
        repeats=result["repeats"],
        square=result["square_gflops"],
        size=machine.MATRIX,
        fp32=result["float32_gflops"],
    )
    head = ["batch", "lengths", "`generate`", "ours", "ours / `generate`", "own matrices", "best rate", "ours / own"]
    rows = []
    for row in result["rows"]:
        for kind, name in (("stops", "with stops"), ("fixed", "fixed length")):
            ours, plain, own = row[kind]["ours"], row[kind]["generate"], row["own_matrices"]
            numbers = [f"{plain:,.0f}", f"{ours:,.0f}", f"**{ours / plain:.2f}**", f"{own:,.0f}"]
            rows.append([str(row["batch"]), name, *numbers, f"{result['square_bound']:,.0f}", f"{ours / own:.2f}"])
    return f"{note}\n\n" + table(head, rows)


if __name__ == "__main__":
    main()
