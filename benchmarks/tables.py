"""What an iteration costs beside its models at a million rows: tables, validation, digests, DVC, MLflow.

    python -m benchmarks.tables OUT.json [--rows 1000000]

Everything runs in this one process, as in an iteration; the peak is the kernel's high-water mark, set back before
every operation. Making the random samples is not counted, what is made of them is: rows are turned into tables shard
by shard and written as ``tasks.loop.sample`` writes them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.page import table
from flows.loop.session import peak_memory_mb, reset_peak_memory
from raft_core.config.loading import check_config
from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import copy_shared, digest_of, write_json
from raft_core.records.run import BASE, Run, open_run, write_commit
from raft_core.records.tables import (
    PROMPTS,
    SAMPLES,
    SCORED,
    read_table,
    to_prompts,
    to_table,
    write_table,
    write_tables,
)
from raft_core.rewards import score as scoring
from raft_core.types import Policy, Prompt, Sample, content_id
from tasks.loop.iteration import Iteration
from tasks.loop.select import select
from tasks.tracking.runs import track
from tasks.validation.check import check, read_quarantine
from tasks.validation.validate import apply_quarantine
from tasks.versioning.pointers import version

K = 8
TOKENS = 24
SHARD_PROMPTS = 16
FIRST = ("validate samples, first iteration", "validate selected, first iteration")
"""Without an iteration before it there is no drift to measure: cheaper, and not in the total."""
REPORT = {"reward": 0.1, "gold_reward": 0.1, "perplexity": 60.0, "distinct_2": 0.8, "kl": 0.1}
LIMITS = {"seconds": 60, "peak_mb": 2000}
NOTE = """\
{rows:,} samples ({prompts:,} prompts × {k}, {tokens} tokens each). "score" is the bookkeeping around a reward that
costs next to nothing. Goal: {seconds} s and {peak_mb:,} MB for one iteration."""


def main() -> None:
    """Measure, and write the result to OUT.json."""
    parser = argparse.ArgumentParser(description="Table operations")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        options.out.write_text(json.dumps(measure(Path(folder), options.rows)))


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """Seconds and peak memory (MB) of every operation on ``rows`` samples."""
    num_prompts = max(1, rows // K)
    config = _config(num_prompts)
    run = open_run(folder / "runs", "bench", config)
    base = Policy(folder, "0" * 64)
    first, second = (Iteration(run, number, base, base) for number in (0, 1))
    prompts = [Prompt.of(f"Movie review: sentence {n} begins") for n in range(num_prompts)]
    operations: dict[str, Callable[[], object]] = {
        "write prompts": lambda: write_table(first.table("prompts"), to_table(PROMPTS, prompts), PROMPTS),
        "write samples": lambda: _write_samples(first, prompts),
        FIRST[0]: lambda: check(first, "samples", ()),
        "score, write scored": lambda: _score(first),
        "validate scored": lambda: check(first, "scored", ()),
        "select, write selected": lambda: select(first),
        FIRST[1]: lambda: check(first, "selected", ()),
        "commit: digest every table": lambda: _commit(run),
        "version: into DVC, and its remote": lambda: _version(run, folder),
        "track: into MLflow": lambda: _track(run, folder),
        "validate samples": lambda: check(second, "samples", ()),
        "validate selected": lambda: check(second, "selected", ()),
    }
    measured = {}
    for name, operation in operations.items():
        if name == "validate samples":
            for part in ("prompts", "samples", "scored", "selected"):
                copy_shared(first.table(part), second.table(part))
        measured[name] = _measured(operation)
    sizes = {path.stem: path.stat().st_size for path in sorted((first.folder / "tables").iterdir())}
    return {"rows": num_prompts * K, "prompts": num_prompts, "operations": measured, "bytes": sizes}


def _measured(operation: Callable[[], object]) -> dict[str, float]:
    reset_peak_memory()
    start = time.monotonic()
    result = operation()
    not_counted_s = result if isinstance(result, float) else 0.0
    return {"seconds": time.monotonic() - start - not_counted_s, "peak_mb": peak_memory_mb()}


def render(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [[name, f"{m['seconds']:.1f}", f"{m['peak_mb']:,}"] for name, m in result["operations"].items()]
    once = [m for name, m in result["operations"].items() if name not in FIRST]
    seconds, peak = sum(m["seconds"] for m in once), max(m["peak_mb"] for m in once)
    rows.append(["**one iteration**", f"**{seconds:.1f}**", f"**{peak:,}**"])
    note = NOTE.format(rows=result["rows"], prompts=result["prompts"], k=K, tokens=TOKENS, **LIMITS)
    return f"{note}\n\n" + table(["operation", "seconds", "peak MB"], rows)


def _config(num_prompts: int) -> RaftConfig:
    return check_config(
        {
            "name": "bench",
            "policy": {"model": "none"},
            "prompts": {"train": "none"},
            "sampling": {"prompts_per_iteration": num_prompts, "samples_per_prompt": K, "max_new_tokens": TOKENS},
            "scoring": {"rewards": [{"type": "lexicon"}]},
        },
        where="the benchmark",
    )


def _write_samples(it: Iteration, prompts: list[Prompt]) -> float:
    """Seconds that making the samples took."""
    made_s = 0.0

    def tables() -> Iterator[pa.Table]:
        nonlocal made_s
        random = np.random.default_rng(0)
        for start in range(0, len(prompts), SHARD_PROMPTS):
            begin = time.monotonic()
            samples = _samples(prompts[start : start + SHARD_PROMPTS], random)
            made_s += time.monotonic() - begin
            yield to_table(SAMPLES, samples)

    write_tables(it.table("samples"), tables(), SAMPLES)
    return made_s


def _samples(prompts: list[Prompt], random: np.random.Generator) -> list[Sample]:
    count = len(prompts) * K
    ids_NT = random.integers(0, 49152, (count, TOKENS + 8)).tolist()
    logprobs_NT = (-random.exponential(2, (count, 2 * TOKENS))).astype(np.float32).tolist()
    stopped_N = random.random(count) < 0.8
    samples = []
    for n in range(count):
        prompt, ids, logprobs = prompts[n // K], ids_NT[n], logprobs_NT[n]
        samples.append(
            Sample(
                content_id("sample", prompt.prompt_id, n % K),
                prompt.prompt_id,
                n % K,
                n,
                " ".join(str(i) for i in ids[:20]),
                tuple(ids[TOKENS:]),
                tuple(ids[:TOKENS]),
                tuple(logprobs[:TOKENS]),
                tuple(logprobs[TOKENS:]),
                "stop" if stopped_N[n] else "length",
            )
        )
    return samples


class _Noise:
    """A reward that costs next to nothing and has no ties."""

    identity = "noise"

    def __init__(self) -> None:
        self.random = np.random.default_rng(1)
        self.sources: dict[str, str] = {}

    def __call__(self, prompts: Any, completions: Any) -> list[float]:
        scores: list[float] = self.random.normal(size=len(completions)).tolist()
        return scores


def _score(it: Iteration) -> None:
    """As ``tasks.loop.score`` does, without the content address, which would load a modality."""
    samples = read_table(it.table("samples"), SAMPLES, scoring.SCORING_COLUMNS)
    prompts = {p.prompt_id: p for p in to_prompts(read_table(it.table("prompts"), PROMPTS))}
    rewards = [scoring.NamedReward("noise", 1.0, _Noise())]
    scored = scoring.score(apply_quarantine(samples, read_quarantine(it)), prompts, rewards, max_failed_share=0.0)
    write_table(it.table("scored"), scored, SCORED)


def _commit(run: Run) -> None:
    """As ``tasks.loop.commit`` does, for an iteration without a policy, whose size is the model's and not the rows'."""
    for number in (BASE, 0):
        folder = run.folder(number)
        write_json(folder / "report.json", {"iteration": number, "num_prompts": 256, **REPORT})
        names = ["report.json", *(f"tables/{path.name}" for path in sorted((folder / "tables").glob("*.parquet")))]
        policy = {"identity": f"policy {number}", "digest": None, "base": None, "source": None}
        write_commit(run, number, {"outputs": {name: digest_of(folder / name) for name in names}, "policy": policy})


def _version(run: Run, workspace: Path) -> None:
    done = version(run, 0, workspace, push=True)
    assert done.pushed, done.warning


def _track(run: Run, workspace: Path) -> None:
    track(run, f"sqlite:///{workspace / 'mlflow.db'}")


if __name__ == "__main__":
    main()
