"""Seconds of one iteration by step: a real ``raft align`` against ``plain_loop``, as a ratio in one run.

    python -m benchmarks.iteration OUT.json [--config configs/reviews.yaml] [--iterations 3] [--rounds 2]

Each round runs both, one after the other, in separate processes, with the same prompts in the same order, K, tokens,
stop strings, LoRA, batches, learning rates, precision and evaluation. Every round has its own seed, so the pipeline
finds nothing to reuse. The pipeline is timed from decision to decision by its event log, so the cost of Prefect, events
and gates is included ("between the steps"). The first iteration is left out if there are more, because libraries still
load in it; the median of the others is reported.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.page import table
from benchmarks.plain_loop import Settings
from raft_core.config.loading import load_config
from raft_core.config.policy import TextPolicyConfig
from raft_core.config.run import RaftConfig
from raft_core.examples import examples_of, prepare
from raft_core.launch.children import python_module
from raft_core.prompts.splits import draw, split_prompts
from raft_core.records.run import read_events, read_run
from raft_core.references import resolve
from raft_core.rewards.classifier import ClassifierRewardConfig
from raft_core.rewards.lexicon import LexiconRewardConfig
from tasks.loop.prepare import perplexity_texts

STEPS = ("sample", "score", "validate", "select", "finetune", "evaluate", "commit", "version", "track")
NOTE = """\
Medians over {count} iterations of each, in {rounds} turns, of `{config}` ({prompts} prompts × K {k} × at most {tokens}
tokens; {held_out} held-out prompts). The plain loop's evaluation does less: reward, KL and perplexity, without the
gold rewards and the intervals."""


def main() -> None:
    """Measure, and write the result to OUT.json."""
    parser = argparse.ArgumentParser(description="One iteration against a plain loop")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/reviews.yaml"))
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    options.out.write_text(json.dumps(measure(options.config, options.iterations, options.rounds)))


def measure(config_file: Path, iterations: int, rounds: int) -> dict[str, Any]:
    """Both, ``rounds`` times in turns."""
    config = load_config(config_file)
    for example in examples_of(config):
        prepare(example)
    ours, plain = [], []
    for seed in range(rounds):
        overrides = [f"seed={seed}", f"iterations={iterations}"]
        settled = load_config(config_file, overrides)
        with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
            ours.append(run_ours(config_file, overrides, Path(folder)))
        with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
            plain.append(run_plain(settled, Path(folder)))
    sampling = config.sampling
    return {
        "config": config_file.as_posix(),
        "iterations": iterations,
        "rounds": rounds,
        "ours": ours,
        "plain": plain,
        "prompts": sampling.prompts_per_iteration,
        "k": sampling.samples_per_prompt,
        "tokens": sampling.max_new_tokens,
        "held_out": config.prompts.max_held_out,
    }


# -- ours ----------------------------------------------------------------------------------------


def run_ours(config_file: Path, overrides: Sequence[str], workspace: Path) -> dict[str, Any]:
    """A whole ``raft align`` in a workspace of its own; its iterations from the event log."""
    raft = Path(sys.executable).with_name("raft")
    command = [str(raft), "align", str(config_file.absolute()), *overrides, "--name", "bench", "--quiet"]
    peak_mb = _run_child(command, cwd=workspace, environment={"RAFT_WORKSPACE": str(workspace)}, may_stop=True)
    run = read_run(workspace / "runs" / "bench")
    ended = {e["iteration"]: datetime.fromisoformat(e["time"]) for e in read_events(run, "decision")}
    rows = []
    for iteration in sorted(ended.keys() - {-1}):
        steps = [e for e in read_events(run, "step") if e["iteration"] == iteration]
        seconds = {step: sum(e["seconds"] for e in steps if e["step"] == step) for step in STEPS}
        wall = (ended[iteration] - ended[iteration - 1]).total_seconds()
        report = json.loads((run.folder(iteration) / "report.json").read_text())
        rows.append(
            {
                "iteration": iteration,
                "seconds": {**seconds, "between the steps": wall - sum(seconds.values())},
                "peak_mb": {s: max((e["peak_rss_mb"] for e in steps if e["step"] == s), default=0) for s in STEPS},
                "tokens": sum(e["tokens"] for e in steps if e["step"] == "sample"),
                **{name: report[name] for name in ("reward", "candidates_reward", "kl", "perplexity")},
            }
        )
    return {"rows": rows, "peak_mb": peak_mb}


# -- the plain loop --------------------------------------------------------------------------------


def run_plain(config: RaftConfig, folder: Path) -> dict[str, Any]:
    """``plain_loop`` on what the pipeline would draw with the same configuration."""
    splits = split_prompts(config.prompts, config.seed, resolve)
    count = config.sampling.prompts_per_iteration
    prompts = [
        p.text for i in range(config.iterations) for p in draw(splits.train, count, seed=config.seed, iteration=i)
    ]
    texts, _ = perplexity_texts(config, folder)
    settings = plain_settings(config, prompts, [p.text for p in splits.held_out], texts, folder)
    settings_file, out = folder / "settings.json", folder / "out.json"
    settings_file.write_text(json.dumps(asdict(settings)))
    command = python_module("benchmarks.plain_loop", str(settings_file), str(out))
    peak_mb = _run_child(command, cwd=Path(__file__).parents[1], environment={})
    rows = json.loads(out.read_text())
    for row in rows[1:]:
        row["seconds"]["evaluate"] = row.pop("evaluate_seconds")
    return {"rows": rows[1:], "peak_mb": peak_mb}


def plain_settings(
    config: RaftConfig, prompts: list[str], held_out: list[str], texts: list[str], folder: Path
) -> Settings:
    """The plain loop's settings for the same work. Raises ValueError for what it cannot do."""
    sampling, tuning, reward = config.sampling, config.finetuning, config.scoring.rewards[0]
    plain_prompts = isinstance(config.policy, TextPolicyConfig) and not config.policy.chat_template
    if tuning.lora is None or not plain_prompts or sampling.top_p < 1 or sampling.top_k:
        raise ValueError("the plain loop supports only LoRA, plain prompts and temperature")
    if not isinstance(reward, ClassifierRewardConfig | LexiconRewardConfig):
        raise ValueError(f"the plain loop does not support rewards of type {reward.type}")
    scorer = resolve(reward.model if isinstance(reward, ClassifierRewardConfig) else reward.file or "")
    return Settings(
        policy=str(resolve(config.policy.model)),
        reward=str(scorer),
        prompts=prompts,
        held_out=held_out,
        perplexity_texts=texts,
        out=str(folder / "checkpoints"),
        iterations=config.iterations,
        prompts_per_iteration=sampling.prompts_per_iteration,
        samples_per_prompt=sampling.samples_per_prompt,
        batch_prompts=sampling.shard_prompts if sampling.batch_prompts == "auto" else sampling.batch_prompts,
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        stop=list(sampling.stop),
        sampling_dtype=sampling.dtype,
        training_dtype=tuning.dtype,
        lora_r=tuning.lora.r,
        lora_alpha=tuning.lora.alpha,
        learning_rate=tuning.learning_rate,
        batch_size=tuning.batch_size,
        epochs=tuning.epochs,
        adam_betas=list(tuning.adam_betas),
        max_grad_norm=tuning.max_grad_norm,
        seed=config.seed,
    )


def _run_child(command: list[str], *, cwd: Path, environment: dict[str, str], may_stop: bool = False) -> int:
    """Run to the end; its peak memory in MB. With ``may_stop`` a stop by a gate (exit code 3) is allowed."""
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in ((0, 3) if may_stop else (0,)):
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} exited {child.returncode}:\n{output.read()[-4000:]}")
    return used.ru_maxrss // 1024


# -- the page ----------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> str:
    """The result as Markdown: seconds by step, then peak memory by step."""
    ours, plain = ([row for run in result[side] for row in _warm(run["rows"])] for side in ("ours", "plain"))
    note = NOTE.format(**result, count=f"{len(ours)} and {len(plain)}")
    steps = [*STEPS, "between the steps"]
    rows = [_step_row(step, _median(ours, step), _median(plain, step)) for step in steps]
    for name, counted in (("without evaluation", [s for s in steps if s != "evaluate"]), ("with everything", steps)):
        totals = [median([sum(r["seconds"].get(s, 0.0) for s in counted) for r in side]) for side in (ours, plain)]
        rows.append([f"**{name}**", f"**{totals[0]:.2f}**", f"**{totals[1]:.2f}**", f"**{totals[0] / totals[1]:.2f}**"])
    facts = [
        [label, _shown(pick, ours), _shown(pick, plain)]
        for label, pick in {
            "sampled tokens per iteration": lambda r: r["tokens"],
            "sampled tokens per second": lambda r: r["tokens"] / r["seconds"]["sample"],
        }.items()
    ]
    last = {side: median([run["rows"][-1]["reward"] for run in result[side]]) for side in ("ours", "plain")}
    facts.append(["held-out reward at the end", f"{last['ours']:.2f}", f"{last['plain']:.2f}"])
    peaks = {step: max(r["peak_mb"][step] for r in ours) for step in STEPS}
    memory = [[step, f"{peaks[step]:,}"] for step in STEPS]
    whole = [max(run["peak_mb"] for run in result[side]) for side in ("plain", "ours")]
    return "\n\n".join(
        [
            note,
            table(["step", "ours, s", "plain loop, s", "ours / plain"], rows),
            table(["", "ours", "plain loop"], facts),
            "Peak resident memory by step, in the pipeline's process or its training process, whichever is larger:",
            table(["step", "MB"], memory),
            f"The plain loop, one process: {whole[0]:,} MB; the pipeline's process, whole run: {whole[1]:,} MB.",
        ]
    )


def _warm(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[1:] or rows


def _median(rows: list[dict[str, Any]], step: str) -> float:
    return float(median([row["seconds"].get(step, 0.0) for row in rows]))


def _step_row(step: str, ours: float, plain: float) -> list[str]:
    return [step, f"{ours:.2f}", f"{plain:.2f}" if plain else "", f"{ours / plain:.2f}" if plain > 0.05 else ""]


def _shown(pick: Callable[[dict[str, Any]], float], rows: list[dict[str, Any]]) -> str:
    return f"{median([pick(row) for row in rows]):,.0f}"


if __name__ == "__main__":
    main()
