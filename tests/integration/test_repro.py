"""``raft repro`` with the real DVC and the real command line, on the tiny example."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raft_core.examples.presets import EXAMPLES

ROOT = Path(__file__).parents[2]
STAGES = {
    "prepare": {
        "cmd": "raft prepare tiny --receipt data/tiny.json",
        "outs": [{"data/tiny.json": {"cache": False, "persist": True}}],
    },
    "align": {
        "cmd": "raft align tiny.yaml iterations=1 --receipt data/align.json",
        "params": [{"tiny.yaml": None}],
        "deps": ["data/tiny.json"],
        "outs": [{"data/align.json": {"cache": False, "persist": True}}],
    },
    "report": {
        "cmd": "raft report data/align.json data",
        "deps": ["data/align.json"],
        "outs": [{"data/report.md": {"cache": False, "persist": True}}],
        "metrics": [{"data/report.json": {"persist": True}}],
        "plots": [
            {
                "data/rewards.csv": {
                    "persist": True,
                    "x": "iteration",
                    "y": "reward",
                    "title": "Held-out reward by iteration",
                }
            }
        ],
    },
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of git and DVC, with the stages of the default on the tiny example."""
    folder = tmp_path_factory.mktemp("a clone")
    shutil.copy(ROOT / "configs" / "tiny.yaml", folder)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    return folder


def repro(workspace: Path) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "COLUMNS"}}
    binaries = Path(sys.executable).parent
    told = subprocess.run(
        [binaries / "raft", "repro"],
        cwd=workspace,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={
            **kept,
            "RAFT_WORKSPACE": str(workspace),
            "PREFECT_HOME": str(workspace.parent / "prefect"),
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        },
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told


def test_what_is_unchanged_is_skipped_and_what_is_lost_is_made_again(workspace: Path) -> None:
    first = repro(workspace)
    assert "Running stage 'align'" in first.stdout
    assert "nothing had to be done" not in first.stdout
    receipt = json.loads((workspace / "data" / "align.json").read_text())
    assert receipt["status"] == "completed"
    assert "iteration" in (workspace / "data" / "report.md").read_text()
    assert len(list((workspace / "runs").rglob("policy.dvc"))) == 1

    second = repro(workspace)
    assert "Stage 'align' didn't change, skipping" in second.stdout
    assert f"nothing had to be done: run {receipt['name']} is complete" in second.stdout
    assert second.stdout.splitlines()[-3].partition("  # ")[0] == f"raft show {receipt['name']}"

    shutil.rmtree(workspace / "runs")
    third = repro(workspace)
    assert "Running stage 'align'" in third.stdout
    assert "nothing had to be done" not in third.stdout
    assert json.loads((workspace / "data" / "align.json").read_text()) == receipt


def test_the_stages_of_the_repository_name_what_exists() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    made = {path for stage in stages.values() for out in (*stage["outs"], *stage.get("metrics", ())) for path in out}
    for name, stage in stages.items():
        words = stage["cmd"].split()
        asked = [words[i + 1] for i, word in enumerate(words) if word == "--stage"]
        assert set(asked) <= set(EXAMPLES["reviews"].stages), name
        for dep in (*stage["deps"], *(path for params in stage.get("params", ()) for path in params)):
            assert dep in made or (ROOT / dep).exists(), f"{name} needs {dep}"
        for out in stage["outs"]:
            assert list(out.values()) == [{"cache": False, "persist": True}], name
        for metrics in stage.get("metrics", ()):
            assert list(metrics.values()) == [{"persist": True}], name


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_experiments_are_run_shown_and_compared_by_dvc(workspace: Path, tmp_path: Path) -> None:
    """The stages on the tiny example, in their own repository: what ``dvc exp`` and ``dvc metrics`` say of them."""
    folder = tmp_path / "clone"
    shutil.copytree(workspace, folder, ignore=shutil.ignore_patterns("runs", "data", "dvc.lock", "mlflow.db*"))
    binaries = Path(sys.executable).parent
    kept = {k: v for k, v in os.environ.items() if k not in {"MLFLOW_TRACKING_URI", "PREFECT_API_URL"}}
    who = {f"GIT_{role}_{what}": "t@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {
        **kept,
        **who,
        "RAFT_WORKSPACE": str(folder),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git", "add", "-A")
    run("git", "commit", "-qm", "a clone")
    run("dvc", "exp", "run", "-q", "-n", "cool", "-S", "tiny.yaml:sampling.temperature=0.7")
    run("dvc", "exp", "run", "-q", "-n", "warm", "-S", "tiny.yaml:sampling.temperature=1.0")
    reward = json.loads((folder / "data" / "report.json").read_text())["best"]["reward"]
    (changed,) = json.loads(run("dvc", "metrics", "diff", "cool", "warm", "--json")).values()
    assert changed["best.reward"]["new"] == reward
    assert changed["best.reward"]["diff"] == pytest.approx(reward - changed["best.reward"]["old"])
    (against,) = json.loads(run("dvc", "metrics", "diff", "cool", "--json")).values()
    assert against["best.reward"] == changed["best.reward"], "the workspace holds the last experiment"
    shown = run("dvc", "exp", "show", "--csv").splitlines()
    columns = shown[0].split(",")
    assert {"best.reward", "best.perplexity", "sampling.temperature"} <= set(columns)
    assert {line.split(",")[0] for line in shown[1:]} >= {"cool", "warm"}
    assert str(reward) in next(line for line in shown if line.startswith("warm,"))
