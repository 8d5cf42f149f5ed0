"""The built wheel, installed where the source tree cannot be seen, aligns."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKED = ("flows", "tasks", "raft_core", "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def libraries() -> list[str]:
    """The folders that the installed libraries lie in; their .pth files, which name the source tree, do not count."""
    specs = [find_spec(name) for name in ("pip", "setuptools", "torch", "prefect", "mlflow", "dvc", "deepspeed")]
    return sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin})


def surround_by_a_repository(folder: Path) -> None:
    """As an environment inside a clone of other code is."""
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    run("git", "init", "--quiet", cwd=folder)
    run("git", *who, "commit", "--quiet", "--allow-empty", "--message", "Other code", cwd=folder)


@pytest.mark.full
def test_the_installed_wheel_aligns_the_tiny_example(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    for name in PACKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir", wheels, source, cwd=tmp_path)
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(libraries()) + "\n")
    (wheel,) = wheels.glob("*.whl")
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", "--ignore-installed", wheel, cwd=tmp_path)
    shutil.rmtree(source)
    surround_by_a_repository(tmp_path)
    shutil.copyfile(ROOT / "configs" / "tiny.yaml", tmp_path / "tiny.yaml")
    place = {"RAFT_WORKSPACE": str(tmp_path / "workspace"), "PREFECT_HOME": str(tmp_path / "prefect")}
    (tmp_path / "workspace").mkdir()

    where = "import flows, raft_core, tasks; print(flows.__file__, raft_core.__file__, tasks.__file__)"
    assert all(Path(file).is_relative_to(packages) for file in run(python, "-P", "-c", where, cwd=tmp_path).split())
    raft = python.with_name("raft")
    told = run(raft, "align", "tiny.yaml", "iterations=1", "--json", cwd=tmp_path, **place)
    assert json.loads(told)["iterations"][-1]["iteration"] == 0
    (started,) = [
        event
        for line in next((tmp_path / "workspace").glob("runs/*/events.jsonl")).read_text().splitlines()
        if (event := json.loads(line))["kind"] == "started"
    ]
    assert started["git_commit"] is None, "the commit of whatever repository lies around is not that of the code"
