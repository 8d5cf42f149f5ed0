"""What a whole run keeps: nothing that can carry code, and no secret."""

import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from flows.cli import exits
from flows.loop.align import align
from flows.loop.session import Session
from raft_core.records.run import read_run

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SHORT = [
    "iterations=1",
    "sampling.prompts_per_iteration=8",
    "prompts.max_held_out=16",
    "evaluation.bootstrap_resamples=200",
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one finished run, versioned, pushed, tracked and registered."""
    folder = tmp_path_factory.mktemp("kept") / "workspace"
    folder.mkdir()
    raft = [sys.executable, "-c", "from flows.cli.app import main; main()"]
    done = subprocess.run(
        [*raft, "align", str(TINY), *SHORT, "--name", "kept", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAFT_WORKSPACE": str(folder)},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return folder


def is_pickle(data: bytes) -> bool:
    """Whether unpickling would get through ``data`` from its first byte on: nothing is loaded to tell."""
    try:
        last = [opcode.name for opcode, _, _ in pickletools.genops(io.BytesIO(data))][-1]
    except Exception:  # the first impossible opcode
        return False
    return last == "STOP"


def carriers(folder: Path) -> Iterator[str]:
    """Files that are pickles, or archives with a pickle inside, by their content."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if is_pickle(data):
            yield path.relative_to(folder).as_posix()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(is_pickle(archive.read(name)) for name in archive.namelist()):
                    yield path.relative_to(folder).as_posix()


def test_nothing_that_is_kept_is_a_pickle(workspace: Path) -> None:
    for kept in ("runs/kept", "mlartifacts", ".dvc/cache", ".dvc-remote", "runs/.steps"):
        assert any(path.is_file() for path in (workspace / kept).rglob("*")), kept
    ours = [path for path in carriers(workspace) if not path.startswith(".dvc/tmp/")]
    assert ours == []


def test_the_search_for_pickles_finds_them(tmp_path: Path) -> None:
    for protocol in range(6):
        (tmp_path / f"{protocol}.json").write_bytes(pickle.dumps({"a": [1, print]}, protocol))
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    (tmp_path / "plain.json").write_text("{}")
    assert len(list(carriers(tmp_path))) == 7


def test_no_prefect_parameter_holds_the_address_of_the_tracking_server(workspace: Path) -> None:
    session = Session(read_run(workspace / "runs" / "kept"), workspace, SecretStr("postgresql://me:hunter2@db/mlflow"))
    stored = json.dumps(align.serialize_parameters({"session": session}))
    assert "hunter2" not in stored
    assert "kept" in stored


def test_a_tracking_server_that_is_away_is_named_without_its_password(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.app import app

    monkeypatch.setenv("RAFT_WORKSPACE", str(workspace))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    assert exits.run_command(app, ["--debug", "lineage", "show", "nobody"]) != 0
    told = capsys.readouterr()
    assert "hunter2" not in told.out + told.err
    assert "127.0.0.1:9" in told.err


@pytest.mark.parametrize("name", ["html", "model-card", "cyclonedx", "openlineage"])
def test_a_real_run_is_exported(workspace: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flows.cli.app import app

    monkeypatch.setenv("RAFT_WORKSPACE", str(workspace))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "export"
    assert exits.run_command(app, ["export", name, "kept@0", "--out", str(out)]) == 0
    told: Any = out.read_text(encoding="utf-8")
    commit = read_run(workspace / "runs" / "kept").folder(0) / "commit.json"
    assert json.loads(commit.read_bytes())["policy"]["digest"] in told
