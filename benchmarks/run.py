"""Run the benchmarks, each in its own process, and write docs/benchmarks.md between its markers."""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.page import replace_section
from raft_core.launch.children import python_module

ROOT = Path(__file__).parents[1]
BENCHMARKS = ("iteration", "sampling", "tables", "lineage", "promotion", "prompts")
"""Each is a module with ``render(result)``; ``python -m benchmarks.NAME OUT.json`` measures."""


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks")
    parser.add_argument(
        "--only", choices=BENCHMARKS, action="append", help="run only this one; may be repeated; default: all"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options, rest = parser.parse_known_args()
    if rest and len(options.only or ()) != 1:
        parser.error(f"{' '.join(rest)}: further arguments go to a single --only NAME")
    for name in options.only or BENCHMARKS:
        facts = machine.describe()
        result = measure(name, rest)
        body = f"{machine.summary(facts)}\n\n{import_module(f'benchmarks.{name}').render(result)}"
        replace_section(options.page, name, body)
        print(f"{name}\n\n{body}\n")


def measure(name: str, arguments: Sequence[str] = ()) -> Any:
    """The result that ``python -m benchmarks.NAME`` writes."""
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        out = Path(folder) / "result.json"
        subprocess.run(python_module(f"benchmarks.{name}", str(out), *arguments), cwd=ROOT, check=True)
        return json.loads(out.read_text())
