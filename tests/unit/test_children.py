"""No process that we start runs what somebody left in the current folder, or beside our code."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.lineage import reproduce
from flows.loop import stages
from flows.orchestration import server
from flows.process import environment
from raft_core.errors import RaftError
from raft_core.examples import fetch
from raft_core.examples.packages import PACKAGES
from raft_core.files import parquet_trial
from raft_core.launch import children, processes
from raft_core.policies.text import template
from tasks.versioning import remote

pytestmark = pytest.mark.slow

NAMES = ("random", "json", "socket", "subprocess", "sitecustomize", "usercustomize", "dvc", "pip", "torch", "raft_core")
"""Modules of the standard library, Python's own hooks, and what the children are started for."""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, now the current one, in which every module writes ``ran``."""
    folder = tmp_path / "planted"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'ran')!r}, 'a').write('{name} ')\nraise SystemExit(9)\n"
        )
    monkeypatch.chdir(folder)
    return folder


def of_dvc(folder: Path) -> None:
    (folder / ".dvc").mkdir()
    stages._run_dvc(["version"], folder)


def of_the_remote(folder: Path) -> None:
    with pytest.raises(RaftError, match="no DVC repository"):  # it came so far as to look for one
        remote.in_child("tasks.versioning.remote", ["pull"], folder, 120)


def of_erasing(folder: Path) -> None:
    with pytest.raises(RaftError, match="no DVC repository"):
        remote.in_child(
            "tasks.forgetting.erase_remote", [], folder, 120, '{"prompts": [], "sources": [], "text": null}'
        )


def of_the_fork_server(folder: Path) -> None:
    processes.start(("json", "random"))
    try:
        processes._ready_server(())
    finally:
        processes.stop()


def of_prefect(folder: Path) -> None:
    process = server.TemporaryServer().launch()
    try:
        with pytest.raises(subprocess.TimeoutExpired):  # it serves
            process.wait(3)
    finally:
        process.kill()
        process.wait()


def of_fetching(folder: Path) -> None:
    part = next(iter(PACKAGES.values()))
    with pytest.raises(RaftError, match=part.sha256):
        fetch._download(part, folder)


def of_reading_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a"]}), folder / "p.parquet")
    assert parquet_trial.fault_of(folder / "p.parquet", ["prompt"]) is None


def of_rendering_a_template(folder: Path) -> None:
    turns = [[{"role": "user", "content": "x"}]]
    assert template.render_in_child("{{ messages[0].content }}", turns, {}, wanted=True) == ["x"]


def of_a_launcher(folder: Path) -> None:
    """As torchrun starts its ranks: ``python -m``, with what RAFT sets for the libraries that it imports."""
    os.environ[processes.LAUNCHER] = f"{sys.executable} -m json.tool --help"
    assert processes.run_launched(folder / "job.json", folder)


def of_multiprocessing(folder: Path) -> None:
    code = "import multiprocessing as m; m.get_context('spawn').Lock(); print('made')"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "made\n"


OF_LIBRARIES = (of_a_launcher, of_multiprocessing)
"""What libraries start: an environment variable keeps them from it, not a command of ours."""


def of_reproducing(folder: Path) -> None:
    run: Any = SimpleNamespace(path=folder / "run", name="r")
    run.path.mkdir()
    (run.path / "config.yaml").write_text("no: configuration")
    (folder / "scratch").mkdir()
    with pytest.raises(RaftError, match="exit code"):
        reproduce._align(run, folder, folder / "scratch", children.ROOT, os.environ)


@pytest.mark.parametrize(
    "start",
    [
        of_dvc,
        of_the_remote,
        of_erasing,
        of_the_fork_server,
        of_prefect,
        of_fetching,
        of_reading_parquet,
        of_rendering_a_template,
        of_a_launcher,
        of_multiprocessing,
        of_reproducing,
    ],
    ids=lambda start: start.__name__,
)
def test_a_child_runs_nothing_of_the_current_folder(
    start: Callable[[Path], None], planted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key in (*environment.DEFAULTS, processes.LAUNCHER):
        monkeypatch.setenv(key, os.environ.get(key, ""))
        monkeypatch.delenv(key)
    if start in OF_LIBRARIES:
        environment.set_defaults()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    start(planted)
    assert not (planted / "ran").exists(), (planted / "ran").read_text()


def test_a_child_finds_our_code_where_it_is_not_installed(tmp_path: Path) -> None:
    """And code that lies elsewhere, in place of what is installed."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").touch()
    (tmp_path / "tasks" / "told.py").write_text(
        "import sys\ndef main():\n    print('called', *sys.argv)\nprint(__name__)"
    )
    for module, told in (("tasks.told", "__main__\n"), ("tasks.told:main", "tasks.told\ncalled tasks.told a b\n")):
        command = children.python_module(module, "a", "b", root=tmp_path)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == told
