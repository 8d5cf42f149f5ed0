"""The benchmarks still run: at a small size, where their figures mean nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raft_core.config.loading import load_config

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]


def run_benchmarks(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def short_config(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(
        f"extends: {ROOT / 'configs' / 'tiny.yaml'}\n"
        "sampling: {prompts_per_iteration: 8}\nprompts: {max_held_out: 16}\nevaluation: {max_perplexity_texts: 16}\n"
    )
    return path


def test_the_tables_benchmark_fills_its_section_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Costs\n<!-- begin tables -->\nold\n<!-- end tables -->\nafter\n")
    run_benchmarks("benchmarks", "--only", "tables", "--page", page, "--rows", 2000)
    text = page.read_text()
    assert text.startswith("# Costs\n<!-- begin tables -->\n")
    assert text.endswith("<!-- end tables -->\nafter\n")
    assert "old" not in text
    assert "2,000 samples (250 prompts × 8" in text
    assert "| **one iteration** |" in text


def test_the_plain_loop_does_the_same_work_as_the_pipeline(tmp_path: Path, short_config: Path) -> None:
    out = tmp_path / "out.json"
    run_benchmarks("benchmarks.iteration", out, "--config", short_config, "--iterations", 1, "--rounds", 1)
    result: dict[str, Any] = json.loads(out.read_text())
    (ours,), (plain,) = (result[side][0]["rows"] for side in ("ours", "plain"))
    assert set(plain["seconds"]) == {"sample", "score", "finetune", "evaluate"} <= set(ours["seconds"])
    assert all(seconds > 0 for seconds in plain["seconds"].values())
    sampling = load_config(short_config).sampling
    rows = 8 * sampling.samples_per_prompt
    assert rows <= plain["tokens"] <= rows * sampling.max_new_tokens
    assert rows <= ours["tokens"] <= rows * sampling.max_new_tokens
    assert plain["perplexity"] == pytest.approx(ours["perplexity"], rel=0.05)


def test_both_samplers_are_measured_at_every_batch(tmp_path: Path, short_config: Path) -> None:
    out = tmp_path / "out.json"
    run_benchmarks("benchmarks.sampling", out, "--config", short_config, "--batches", 8, 16, "--repeats", 1)
    rows = json.loads(out.read_text())["rows"]
    assert [row["batch"] for row in rows] == [8, 16]
    for row in rows:
        assert min(row["own_matrices"], *row["stops"].values(), *row["fixed"].values()) > 0


def test_the_start_with_many_prompts_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run_benchmarks("benchmarks.prompts", out, "--few", 100, "--many", 400)
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == ["raft config validate", "raft align"]
    assert all(row[size][unit] > 0 for row in rows for size in ("few", "many") for unit in ("s", "mb"))
