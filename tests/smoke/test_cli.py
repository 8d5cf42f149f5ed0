"""The real command line in processes of its own, as a person or a script meets it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raft_core.records.run import read_events, read_run

ROOT = Path(__file__).parents[2]
RAFT = Path(sys.executable).with_name("raft")
IS_A_RUN = re.compile("^(policy|extends):", re.MULTILINE)
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if IS_A_RUN.search(p.read_text()))
TINY = str(ROOT / "configs" / "tiny.yaml")
LIGHT = ("versioning.enabled=false",)
"""The workspace of a test is no repository of git and DVC; versioning has tests of its own."""


def environment(workspace: Path) -> dict[str, str]:
    dropped = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL", "COLUMNS"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    # CXX=false: nothing here may compile, since a fresh machine may have no compiler.
    return {**kept, "RAFT_WORKSPACE": str(workspace), "PREFECT_HOME": str(workspace.parent / "prefect"), "CXX": "false"}


def raft(workspace: Path, *arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAFT, *arguments],
        cwd=workspace,
        env=environment(workspace),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_help_names_the_commands(tmp_path: Path) -> None:
    told = raft(tmp_path, "--help")
    assert told.returncode == 0
    assert all(name in told.stdout for name in ("align", "show", "samples", "doctor", "lineage"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_in_the_repository_is_valid(config: Path, tmp_path: Path) -> None:
    told = raft(tmp_path, "config", "validate", str(config))
    assert told.returncode == 0, told.stderr
    assert "is valid" in told.stdout


def test_a_faulty_configuration_exits_2_with_every_fault(tmp_path: Path) -> None:
    told = raft(tmp_path, "align", TINY, "sampling.temperature=0", "iterations=none")
    assert (told.returncode, told.stdout) == (2, "")
    assert all(key in told.stderr for key in ("temperature", "samples_per_prompt", "iterations", "'none'"))
    assert "Traceback" not in told.stderr


def test_doctor_finds_what_an_alignment_needs(tmp_path: Path) -> None:
    told = raft(tmp_path, "doctor", "--json")
    findings = {finding["name"]: finding["level"] for finding in json.loads(told.stdout)}
    assert told.returncode == 0, told.stdout
    assert {findings[name] for name in ("python", "environment", "packages")} == {"ok"}


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A workspace after ``raft align configs/tiny.yaml``, and what the command said."""
    workspace = tmp_path_factory.mktemp("a workspace")
    return workspace, raft(workspace, "align", TINY, "--name", "first", *LIGHT)


def rows(workspace: Path, name: str) -> list[Mapping[str, Any]]:
    told = raft(workspace, "show", name, "--json")
    assert told.returncode == 0, told.stderr
    document: dict[str, Any] = json.loads(told.stdout)
    return document["iterations"]  # type: ignore[no-any-return]


def test_the_reward_goes_up(aligned: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workspace, told = aligned
    assert told.returncode == 0, told.stderr
    found = rows(workspace, "first")
    assert [row["iteration"] for row in found] == list(range(-1, len(found) - 1))
    assert len(found) > 1
    assert max(row["reward_low"] for row in found) > found[0]["reward_high"]
    assert all(row["seconds"] > 0 for row in found)
    assert {"seconds_sample", "seconds_score", "seconds_finetune", "seconds_evaluate"} <= found[1].keys()


def test_it_ends_with_a_table_and_three_lines(aligned: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, told = aligned
    lines = told.stdout.splitlines()
    assert [line.partition("  # ")[0] for line in lines[-3:-1]] == ["raft show first", "raft lineage show first"]
    assert lines[-1].startswith("mlflow ui --backend-store-uri ")
    assert any(line.split()[:1] == ["base"] for line in lines)
    assert "sample" in told.stderr
    assert "tokens/s" in told.stderr


def steps(workspace: Path) -> list[Any]:
    return read_events(read_run(workspace / "runs" / "first"), "step")


def test_again_there_is_nothing_to_do(aligned: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workspace, _ = aligned
    before = steps(workspace)
    again = raft(workspace, "align", TINY, "--name", "first", *LIGHT)
    assert again.returncode == 0, again.stderr
    assert "nothing" in again.stdout.splitlines()[0]
    assert steps(workspace) == before


def test_another_configuration_under_the_same_name_exits_2(
    aligned: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    workspace, _ = aligned
    told = raft(workspace, "align", TINY, "--name", "first", "seed=7", *LIGHT)
    assert told.returncode == 2
    assert "seed (0" in told.stderr
    assert "7" in told.stderr


def test_the_views_of_a_real_run(aligned: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    workspace, _ = aligned
    pairs = json.loads(raft(workspace, "samples", "first", "-n", "3", "--json").stdout)
    assert len(pairs) == 3
    assert all(pair["prompt"] and pair["before"] is not None for pair in pairs)
    chain = json.loads(raft(workspace, "lineage", "show", "first", "--json").stdout)
    assert chain["links"][-1]["iteration"] == -1
    (listed,) = json.loads(raft(workspace, "runs", "--json").stdout)
    assert listed["name"] == "first"
    merged = raft(workspace, "merge", "first", str(workspace / "plain"))
    assert merged.returncode == 0, merged.stderr
    assert (workspace / "plain" / "config.json").exists()


def test_a_gate_that_stops_exits_3(tmp_path: Path) -> None:
    told = raft(tmp_path, "align", TINY, "iterations=1", "gates.max_kl=0.0000001", *LIGHT)
    assert told.returncode == 3, told.stderr
    assert "stopped" in told.stdout


def test_a_stop_by_validation_is_a_success_for_dvc(tmp_path: Path) -> None:
    told = raft(
        tmp_path, "align", TINY, "--name", "cut", "--receipt", "align.json", "validation.forbidden_pattern=the", *LIGHT
    )
    assert told.returncode == 0, told.stderr
    assert "stopped: " in told.stderr
    receipt = json.loads((tmp_path / "align.json").read_text())
    assert (receipt["status"], receipt["best"]) == ("stopped", -1)
    assert "runs/cut/iterations/000/validation_samples.md" in receipt["reason"]
    assert str(tmp_path) not in receipt["reason"]
    resumed = raft(tmp_path, "resume", "cut", "tracking.experiment=other")
    assert resumed.returncode == 3, resumed.stderr
    assert raft(tmp_path, "resume", "cut", "seed=7").returncode == 2
    assert raft(tmp_path, "resume", "none").returncode == 2
