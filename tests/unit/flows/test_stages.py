"""What DVC is told, and what it must not be left to believe."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.loop import stages
from raft_core.errors import ConfigError, InputError
from raft_core.records.overview import view_run
from raft_core.records.run import Run

WriteRun = Callable[..., Run]


@pytest.fixture
def receipt(tmp_path: Path, write_run: WriteRun) -> Path:
    write_run()
    path = tmp_path / "data" / "align.json"
    stages.write_align_receipt(path, tmp_path, "hand")
    return path


def test_a_whole_run_holds(receipt: Path, tmp_path: Path) -> None:
    assert stages.fault_of(tmp_path, receipt) is None
    assert stages.aligned_run(receipt) == "hand"


def test_the_receipt_holds_no_clock(receipt: Path, tmp_path: Path) -> None:
    before = receipt.read_bytes()
    assert set(json.loads(before)) == {"name", "status", "best", "reason", "commit"}
    stages.write_align_receipt(receipt, tmp_path, "hand")
    assert receipt.read_bytes() == before


def test_each_way_in_which_a_run_can_fail_its_receipt(receipt: Path, tmp_path: Path) -> None:
    last = tmp_path / "runs" / "hand" / "iterations" / "001"
    report = last / "report.json"
    whole = report.read_bytes()
    report.write_bytes(whole[:-3])
    assert "changed bytes" in str(stages.fault_of(tmp_path, receipt))
    report.unlink()
    assert "missing" in str(stages.fault_of(tmp_path, receipt))
    report.write_bytes(whole)
    shutil.move(last, tmp_path / "aside")
    assert "does not end with the commit" in str(stages.fault_of(tmp_path, receipt))
    shutil.rmtree(tmp_path / "runs")
    assert "no run in" in str(stages.fault_of(tmp_path, receipt))
    receipt.write_text("[]")
    assert receipt.name in str(stages.fault_of(tmp_path, receipt))
    receipt.unlink()
    assert stages.fault_of(tmp_path, receipt) == f"no {receipt}"


def test_repro_needs_a_dvc_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no dvc\.yaml"):
        stages.repro(tmp_path)


def test_a_receipt_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json"):
        stages.aligned_run(tmp_path / "nothing.json")


def test_the_report_of_a_run(tmp_path: Path, write_run: WriteRun) -> None:
    stages.write_report(tmp_path, view_run(write_run()))
    metrics = json.loads((tmp_path / "report.json").read_text())
    assert (metrics["base"]["reward"], metrics["best"]["reward"], metrics["best"]["iteration"]) == (0.07, 0.68, 1)
    assert not any(key.startswith("seconds") for key in metrics["best"])
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[-1].startswith("| 1 ★ | 0.68 | 0.63 | 0.73 | 0.21 |")
    header, *rows = (tmp_path / "rewards.csv").read_text().splitlines()
    assert header.split(",")[:2] == ["iteration", "reward"]
    assert [row.split(",")[0] for row in rows] == ["-1", "0", "1"]
    assert rows[-1].split(",")[1] == "0.68"
    assert set(metrics["reward"]) == {"base", "000", "001"}
    assert metrics["reward"]["001"] == 0.68
