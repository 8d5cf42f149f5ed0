"""What many prompts cost before the first sample: start-up time and memory, with few and with many prompts.

    python -m benchmarks.prompts OUT.json [--config configs/tiny.yaml] [--few 2000] [--many 200000]

Only the number of prompts differs: both runs draw, sample and train the same amount. Each command is its own process,
including its imports.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

from benchmarks.page import table
from raft_core.examples.tiny_grammar import NOUNS, OPENERS, VERBS
from raft_core.launch.children import python_module

SHORT = (
    "iterations=1",
    "sampling.prompts_per_iteration=8",
    "prompts.max_held_out=8",
    "prompts.held_out=null",
    "prompts.promotion=null",
    "evaluation.max_perplexity_texts=8",
    "versioning.enabled=false",
    "validation.min_signal_share=0",
)
NOTE = """\
`{config}`, one iteration of 8 prompts, drawn from {few:,} or {many:,} short ones. Seconds of the whole command, and
peak memory of its process (without child processes)."""


def main() -> None:
    """Measure, and write the result to OUT.json."""
    parser = argparse.ArgumentParser(description="Start-up with many prompts")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs") / "tiny.yaml")
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--many", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        rows = measure(Path(folder), options.config.resolve(), options.few, options.many)
    facts = {"config": str(options.config), "few": options.few, "many": options.many}
    options.out.write_text(json.dumps({**facts, "rows": rows}))


def measure(folder: Path, config: Path, few: int, many: int) -> list[dict[str, Any]]:
    """One row for each command: its seconds and peak memory in MB at both sizes."""
    files = {count: write_prompts(folder / f"{count}.txt", count) for count in (few, many)}
    _command(folder, "align", str(config), "--name", "warm", *SHORT)  # prepares the example
    rows = []
    for name, arguments in {"raft config validate": ["config", "validate"], "raft align": ["align"]}.items():
        measured = {
            count: _command(folder, *arguments, str(config), *_named(name, count), f"prompts.train={file}", *SHORT)
            for count, file in files.items()
        }
        rows.append({"name": name, "few": measured[few], "many": measured[many]})
    return rows


def render(result: dict[str, Any]) -> str:
    """The section of the page."""
    head = ["command", *(f"{result[size]:,} prompts, {unit}" for size in ("few", "many") for unit in ("s", "MB"))]
    cells = [
        [f"`{row['name']}`", *(f"{row[size][unit]:.4g}" for size in ("few", "many") for unit in ("s", "mb"))]
        for row in result["rows"]
    ]
    return f"{NOTE.format(**{key: result[key] for key in ('config', 'few', 'many')})}\n\n{table(head, cells)}"


def write_prompts(path: Path, count: int) -> Path:
    """``count`` different short prompts from the words of the tiny example, one per line."""
    path.write_text("".join(f"{text}\n" for text in islice(_texts(), count)))
    return path


def _texts() -> Iterator[str]:
    words = [noun for nouns in NOUNS.values() for noun in nouns]
    pairs = [f"{verb} {opener} {word}" for verb, opener, word in product(VERBS, OPENERS, words)]
    openings = [f"{opener} {one} and the {other}" for opener, one, other in product(OPENERS, words, words)]
    return (f"Review: {opening} {pair}" for pair, opening in product(pairs, openings))


def _named(command: str, count: int) -> list[str]:
    return ["--name", f"run-{count}", "-q"] if command == "raft align" else []


def _command(workspace: Path, *arguments: str) -> dict[str, float]:
    """Seconds and peak memory of one command line in ``workspace``."""
    dropped = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAFT_LEDGER"}
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    start = time.monotonic()
    process = subprocess.Popen(
        [*python_module("flows.cli:main"), *arguments],
        env=environment | {"RAFT_WORKSPACE": str(workspace)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(code, list(arguments))
    return {"s": time.monotonic() - start, "mb": used.ru_maxrss / 1024}


if __name__ == "__main__":
    main()
