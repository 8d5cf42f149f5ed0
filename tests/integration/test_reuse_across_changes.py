"""A gate, a selector, a reward and a metric are added: every finished step of an older run is still reused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import exits
from raft_core import examples
from raft_core.config.loading import load_config

ROOT = Path(__file__).parents[2]
RAFT = "import sys; from flows.cli.app import main; sys.argv[0] = 'raft'; main()"
CACHED = {"sample", "score", "finetune", "evaluate"}
ADDED = {
    "raft_core/config/gates.py": (
        '(), description="further limits, each on any figure of the report")\n',
        "    max_least: float | None = Field(None, description='largest smallest reward')\n",
    ),
    "raft_core/selection/registry.py": (
        '        "threshold": "raft_core.selection.threshold:Threshold",\n',
        '        "second_of_k": "raft_core.selection.second_of_k:SecondOfK",\n',
    ),
    "raft_core/rewards/registry.py": (
        '        "lexicon": "raft_core.rewards.lexicon:LexiconRewardConfig",\n',
        '        "other": "raft_core.rewards.lexicon:LexiconRewardConfig",\n',
    ),
    "raft_core/metrics/registry.py": (
        '        "training": "raft_core.metrics.training:Training",\n',
        '        "least": "raft_core.metrics.least:Least",\n',
    ),
}
METRIC = '''"""The smallest reward of the candidates."""

from typing import ClassVar, Literal

from raft_core.metrics.base import Figure, Measured, Metric


class Least(Metric):
    """Another metric."""

    type: Literal["least"] = "least"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("candidates_least", "smallest reward"),)
    needs_batch: ClassVar[bool] = True

    def compute(self, measured: Measured) -> dict[str, float]:
        """Of the scored candidates."""
        return {"candidates_least": min(measured.batch.scored["reward"].to_pylist())}
'''
SELECTOR = '''"""The second of each prompt."""

from typing import Literal

from raft_core.selection.best_of_k import BestOfK


class SecondOfK(BestOfK):
    """Another rule."""

    type: Literal["second_of_k"] = "second_of_k"  # type: ignore[assignment]
'''


def align(code: Path, workspace: Path, name: str) -> dict[str, list[bool]]:
    """Run the tiny example with the copy ``code``; step → whether each of its runs was reused."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RAFT, "align", "tiny.yaml", "--name", name, "--quiet"],
        cwd=workspace,
        env={**environment, "RAFT_WORKSPACE": str(workspace), "PYTHONPATH": str(code)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == exits.DONE, done.stderr
    found: dict[str, list[bool]] = {}
    for event in map(json.loads, (workspace / "runs" / name / "events.jsonl").read_text().splitlines()):
        if event["kind"] == "step":
            found.setdefault(event["step"], []).append(event["reused"])
    return found


@pytest.mark.full
def test_what_no_step_reads_makes_none_of_them_anew(tmp_path: Path) -> None:
    code, workspace = tmp_path / "code", tmp_path / "work"
    for floor in ("flows", "tasks", "raft_core"):
        shutil.copytree(ROOT / floor, code / floor, ignore=shutil.ignore_patterns("__pycache__"))
    workspace.mkdir()
    examples.prepare("tiny")
    plain: dict[str, Any] = load_config(ROOT / "configs" / "tiny.yaml").model_dump(mode="json")
    plain |= {"iterations": 1, "versioning": {**plain["versioning"], "enabled": False}}
    plain["sampling"] |= {"prompts_per_iteration": 8}
    plain["prompts"] |= {"max_held_out": 16}
    del plain["gates"]
    (workspace / "tiny.yaml").write_text(yaml.safe_dump(plain))
    first = align(code, workspace, "one")
    assert not any(reused for step in CACHED for reused in first[step])

    for file, (before, more) in ADDED.items():
        text = (code / file).read_text()
        assert text.count(before) == 1, file
        (code / file).write_text(text.replace(before, before + more))
    (code / "raft_core" / "selection" / "second_of_k.py").write_text(SELECTOR)
    (code / "raft_core" / "metrics" / "least.py").write_text(METRIC)
    second = align(code, workspace, "two")
    assert {step: set(second[step]) for step in CACHED} == {step: {True} for step in CACHED}
    report = json.loads((workspace / "runs" / "two" / "iterations" / "000" / "report.json").read_text())
    assert "candidates_least" in report, "the changed code ran"
    assert "max_least" in (workspace / "runs" / "two" / "config.yaml").read_text()
