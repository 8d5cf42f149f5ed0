"""How long questions about lineage take, with 10 million samples and with 1,000 runs, and how fast verification is.

    python -m benchmarks.lineage OUT.json [--rows 10000000] [--runs 1000]

Every question is a ``raft`` command in its own process, as a person would type it; the seconds without starting Python
and importing modules are given as well. The files were written or read shortly before, so the disk is not measured.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.page import table
from raft_core.audit.index import open_index
from raft_core.audit.trace import find
from raft_core.config.loading import check_config, config_digest
from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import copy_shared, digest_of, write_bytes, write_json
from raft_core.files.hashing import FileHashes
from raft_core.launch.children import python_module
from raft_core.records.run import BASE, Run, open_run, record_event, write_commit
from raft_core.records.tables import PROMPTS, QUARANTINE, SCORED, SELECTED, write_table
from raft_core.types import content_id

K = 8
ITERATION_ROWS = 1_000_000
HASHED_MB = 1024
NOTE = """\
{rows:,} synthetic samples (K {k}, {iterations} iterations), and {runs:,} runs of 3 commits each in one workspace.
"command" is the whole process; "query" is the time without starting Python and importing modules. The first question
builds the index, once. Goal: a question among 10 million samples in 2 s, `show` with 1,000 runs in 1.5 s."""


def main() -> None:
    """Measure, and write the result to OUT.json."""
    parser = argparse.ArgumentParser(description="Questions about lineage")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        options.out.write_text(json.dumps(measure(Path(folder), options.rows, options.runs)))


def measure(folder: Path, rows: int, runs: int) -> dict[str, Any]:
    """Seconds of every question, and the rate of hashing in MB/s."""
    large, many = folder / "large", folder / "many"
    iterations = _large_run(large, rows)
    start = time.monotonic()
    with open_index(large / "runs"):
        build_s = time.monotonic() - start
    size = sum(path.stat().st_size for path in (large / "runs" / ".index").iterdir())
    questions = {
        "find --prompt": ("prompt", _prompt_id(3)),
        "find --sample": ("sample", _sample_id(0, 3 * K)),
        "find --text, of a prompt": ("text", "sentence 3 begins"),
        "find --text, of a completion": ("text", f"completion {3 * K} "),
        "find --source": ("source", "source 7"),
    }
    asked: dict[str, dict[str, float | None]] = {}
    for name, (by, value) in questions.items():
        command = ["lineage", "find", f"--{by}", value]
        asked[name] = {"command": _command(large, command), "alone": _alone(large, by, value)}
    _many_runs(many, runs)
    shown = {
        "show RUN": ["show", "run-0007"],
        "show, the latest": ["show"],
        "lineage show RUN": ["lineage", "show", "run-0007"],
        "lineage show DIGEST": ["lineage", "show", _some_commit(many)],
        "lineage show FILE": ["lineage", "show", str(many / "runs/run-0007/iterations/000/report.json")],
    }
    for name, command in shown.items():
        asked[name] = {"command": _command(many, command), "alone": None}
    return {
        "rows": rows,
        "iterations": iterations,
        "runs": runs,
        "build_s": build_s,
        "index_mb": size / 1e6,
        "questions": asked,
        "hashing": _hash_rates(folder / "bytes"),
        "python_s": _command(large, ["--help"]),
    }


def render(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [["`raft --help`", f"{result['python_s']:.2f}", ""]]
    for name, seconds in result["questions"].items():
        alone = "" if seconds["alone"] is None else f"{seconds['alone']:.2f}"
        rows.append(
            [f"`raft {name}`" if "show" in name else f"`raft lineage {name}`", f"{seconds['command']:.2f}", alone]
        )
    note = NOTE.format(k=K, **{key: result[key] for key in ("rows", "iterations", "runs")})
    build = f"Building the index: {result['build_s']:.0f} s, {result['index_mb']:,.0f} MB."
    one, several = result["hashing"]["one thread"], result["hashing"]["threads"]
    rate = (
        f"`raft lineage verify` hashes at {several['sha256']:,.0f} MB/s (sha256) and {several['md5']:,.0f} MB/s (DVC's "
        f"md5); one thread: {one['sha256']:,.0f} and {one['md5']:,.0f} MB/s."
    )
    return f"{note}\n\n{table(['question', 'command, s', 'query, s'], rows)}\n\n{build} {rate}"


# -- ten million samples ----------------------------------------------------------------------------


def _prompt_id(number: int) -> str:
    return content_id("bench prompt", number)


def _sample_id(iteration: int, number: int) -> str:
    return content_id("bench sample", iteration, number)


def _large_run(workspace: Path, rows: int) -> int:
    """One run whose iterations draw the same prompts; a sample's ids differ, the other columns repeat."""
    per_iteration = min(rows, ITERATION_ROWS)
    iterations = max(1, rows // per_iteration)
    run = open_run(workspace / "runs", "large", _config("large"))
    _commit(run, BASE, None)
    num_prompts = per_iteration // K
    ids = [_prompt_id(n) for n in range(num_prompts)]
    prompts = pa.table(
        {
            "prompt_id": ids,
            "text": [f"Movie review: sentence {n} begins with words" for n in range(num_prompts)],
            "group": [""] * num_prompts,
            "source": [f"source {n % 1000}" for n in range(num_prompts)],
            "reference": pa.nulls(num_prompts, pa.string()),
        }
    ).cast(PROMPTS)
    rewards = np.random.default_rng(0).normal(size=num_prompts * K)
    made = content_id("made", BASE)
    for iteration in range(iterations):
        _iteration(run, iteration, prompts, rewards)
        made = _commit(run, iteration, made)
    return iterations


def _iteration(run: Run, iteration: int, prompts: pa.Table, rewards: Any) -> None:
    num = len(rewards)
    sample_ids = np.array([_sample_id(iteration, n) for n in range(num)])
    prompt_ids = np.repeat(np.array(prompts["prompt_id"].to_pylist()), K)
    columns = {
        "sample_id": sample_ids,
        "prompt_id": prompt_ids,
        "k": np.tile(np.arange(K, dtype=np.int32), num // K),
        "source": ["policy"] * num,
        "reward": rewards,
        "components": pa.array([[]] * num, SCORED.field("components").type),
        "status": ["ok"] * num,
        "reason": [""] * num,
    }
    write_table(run.table(iteration, "prompts"), prompts, PROMPTS)
    write_table(run.table(iteration, "scored"), pa.table(columns).cast(SCORED), SCORED)
    write_table(run.table(iteration, "quarantine"), QUARANTINE.empty_table(), QUARANTINE)
    best = np.arange(0, num, K) + rewards.reshape(-1, K).argmax(1)
    empty: list[list[int]] = [[]] * len(best)
    selected = {
        "sample_id": sample_ids[best],
        "prompt_id": prompt_ids[best],
        "source": ["policy"] * len(best),
        "reward": rewards[best],
        "rank": np.ones(len(best), np.int32),
        "weight": np.ones(len(best)),
        "prompt": prompts["text"],
        "completion": [f" completion {n} of twenty words or so, as a model writes" * 2 for n in best],
        "prompt_token_ids": empty,
        "completion_token_ids": empty,
        "sampling_logprobs": empty,
        "finish_reason": ["stop"] * len(best),
    }
    write_table(run.table(iteration, "selected"), pa.table(selected).cast(SELECTED), SELECTED)


def _commit(run: Run, iteration: int, sampled_from: str | None) -> str:
    folder = run.folder(iteration)
    write_json(folder / "report.json", {"iteration": iteration, "reward": 0.1, "perplexity": 3.0})
    names = [f"tables/{name}.parquet" for name in ("prompts", "scored", "selected", "quarantine")]
    outputs = {name: digest_of(folder / name) for name in [*names, "report.json"] if (folder / name).exists()}
    made = content_id("made", iteration)
    policy = {"identity": made, "digest": digest_of(folder / "report.json"), "base": None, "source": None}
    write_commit(
        run,
        iteration,
        {
            "config": config_digest(run.config),
            "sampled_from": sampled_from,
            "outputs": outputs,
            "policy": policy,
            "steps": {},
            "numerics": {},
        },
    )
    record_event(run, "step", iteration=iteration, step="commit", seconds=0.1, tokens=0)
    return made


def _config(name: str) -> RaftConfig:
    return check_config(
        {
            "name": name,
            "policy": {"model": "none"},
            "prompts": {"train": "none"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
            "iterations": 2,
        },
        where="the benchmark",
    )


# -- a thousand runs --------------------------------------------------------------------------------


def _many_runs(workspace: Path, runs: int) -> None:
    run = open_run(workspace / "runs", "run-0000", _config("many"))
    made = _commit(run, BASE, None)
    for iteration in range(2):
        made = _commit(run, iteration, made)
    for number in range(1, runs):
        copy_shared(run.path, run.path.with_name(f"run-{number:04d}"))


def _some_commit(workspace: Path) -> str:
    return digest_of(workspace / "runs" / "run-0000" / "iterations" / "001" / "commit.json")[:16]


# -- measuring --------------------------------------------------------------------------------------


def _command(workspace: Path, arguments: Sequence[str]) -> float:
    """Seconds of a ``raft`` command, the best of three."""
    program = python_module("flows.cli:main", *arguments)
    environment = {**os.environ, "RAFT_WORKSPACE": str(workspace)}
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run(program, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - start)
    return min(seconds)


def _alone(workspace: Path, by: Any, value: str) -> float:
    start = time.monotonic()
    with open_index(workspace / "runs") as index:
        assert find(index, by, value).iterations
    return time.monotonic() - start


def _hash_rates(folder: Path) -> dict[str, dict[str, float]]:
    """MB/s over files of 64 MB that lie in memory, with one thread and with as many as verification takes."""
    data = os.urandom(64 << 20)
    files = [folder / str(n) for n in range(HASHED_MB >> 6)]
    for path in files:
        write_bytes(path, data)
    rates: dict[str, dict[str, float]] = {}
    for name, threads in (("one thread", 1), ("threads", None)):
        for algorithm in ("sha256", "md5"):
            start = time.monotonic()
            FileHashes(threads).prime(files, algorithm)
            rates.setdefault(name, {})[algorithm] = HASHED_MB / (time.monotonic() - start)
    with suppress(OSError):
        shutil.rmtree(folder)
    return rates


if __name__ == "__main__":
    main()
