"""What a promotion costs beyond the evaluation: verify, decide, record, sync, as whole commands.

    python -m benchmarks.promotion OUT.json [--config configs/tiny.yaml] [--entries 1000]

Aligns a short run and measures its evidence first; neither is counted. Each command is its own process, including its
imports; the ledger has ``--entries`` entries beforehand.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.page import table
from raft_core.launch.children import python_module
from raft_core.promotion.decision import decide
from raft_core.promotion.ledger import FileLedger
from raft_core.promotion.pairs import Evidence
from raft_core.promotion.rules import PromotionGates, PromotionRules
from raft_core.records.tables import EVALUATION, PERPLEXITY, to_table

SHORT = ("iterations=2", "prompts.max_held_out=32", "versioning.push=false")
LIMIT_S = 10
NOTE = """\
`{config}`, with {entries:,} entries in the ledger beforehand. Each command is its own process, including its
imports (those of Prefect, MLflow and torch take {imports:.1f} s). Goal: {limit} s for a promotion whose
evidence exists already."""


def main() -> None:
    """Measure, and write the result to OUT.json."""
    parser = argparse.ArgumentParser(description="Promotion beyond the evaluation")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs") / "tiny.yaml")
    parser.add_argument("--entries", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        result = measure(Path(folder), options.config.resolve(), options.entries)
    result |= {"config": str(options.config), "entries": options.entries}
    options.out.write_text(json.dumps(result))


def measure(folder: Path, config: Path, entries: int) -> dict[str, Any]:
    """Seconds of each operation."""
    raft = _raft(folder)
    raft("align", str(config), "--name", "run", "-q", *SHORT)
    gates = [name for name, field in PromotionGates.model_fields.items() if "None" in str(field.annotation)]
    open_gates = {**dict.fromkeys(gates), "max_kl": 1e9, "max_slice_loss": 1e9, "min_distinct_1": 1e-9}
    policy = folder / "promotion.yaml"
    policy.write_text(yaml.safe_dump({"gates": {**open_gates, "min_reward_gain": -1e9, "min_paired_prompts": 64}}))
    for number in (0, 1):
        raft("promote", f"run@{number}", "--rules", str(policy), "--dry-run")
    ledger = FileLedger(folder / "ledger.jsonl")
    appends = seconds(lambda: [ledger.append("refused", "other", {"n": n}, time="t") for n in range(entries)])
    rows = {
        "raft promote, the first champion": raft("promote", "run@0", "--rules", str(policy)),
        "raft promote, against a champion": raft("promote", "run@1", "--rules", str(policy)),
        "raft rollback": raft("rollback", "--reason", "benchmark"),
        "raft ledger": raft("ledger"),
        "raft ledger verify": raft("ledger", "verify"),
        "one append to the ledger": appends / entries,
        "the decision itself, 256 prompts": _decision(256),
        "the decision itself, 10,000 prompts": _decision(10_000),
    }
    imports = "import mlflow, prefect, raft_core.policies.text.backend"
    return {
        "imports": seconds(
            lambda: subprocess.run([sys.executable, "-P", "-c", imports], check=True, capture_output=True)
        ),
        "rows": [{"name": name, "seconds": took} for name, took in rows.items()],
    }


def render(result: dict[str, Any]) -> str:
    """The section of the page."""
    note = NOTE.format(limit=LIMIT_S, **{key: result[key] for key in ("config", "entries", "imports")})
    cells = [[f"`{r['name']}`" if "raft " in r["name"] else r["name"], f"{r['seconds']:.3g}"] for r in result["rows"]]
    return f"{note}\n\n{table(['operation', 'seconds'], cells)}"


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.monotonic()
    function()
    return time.monotonic() - start


def _raft(workspace: Path) -> Callable[..., float]:
    """One command line in ``workspace``; returns its seconds."""
    dropped = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAFT_LEDGER"}
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"RAFT_WORKSPACE": str(workspace)}
    command = python_module("flows.cli:main")

    def run(*arguments: str) -> float:
        return seconds(
            lambda: subprocess.run(
                [*command, *arguments], env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        )

    return run


def _decision(num_prompts: int) -> float:
    """Every gate on made-up evidence of 24 words a completion."""

    def evidence(shift: int) -> Evidence:
        rows = [
            {
                "prompt_id": f"p{i}",
                "group": f"g{i % 4}",
                "prompt": "",
                "sample_id": f"s{i}",
                "completion": " ".join(f"w{(i * 31 + j * j + shift) % 5000}" for j in range(24)),
                "completion_token_ids": [1] * 24,
                "finish_reason": "stop",
                "sampling_logprobs": [-1.0] * 24,
                "base_logprobs": [-1.01] * 24,
                "reward": float((i * 7919 + shift) % 97),
                "gold_reward": 0.0,
                "components": [],
            }
            for i in range(num_prompts)
        ]
        texts = [{"text": f"t{i}", "logprobs": [-2.0 - i / 1000] * 30} for i in range(256)]
        return Evidence(to_table(EVALUATION, rows), to_table(PERPLEXITY, texts))

    ours, theirs = evidence(3), evidence(0)
    return seconds(lambda: decide(ours, theirs, PromotionRules()))


if __name__ == "__main__":
    main()
