"""Runs on the tiny example that are killed and taken up again, and the page that says what was tried."""

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from flows.process.environment import DEFAULTS
from raft_core.files.artifacts import file_digest

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
DRIVER = Path(__file__).parent / "killed_run.py"
NAME = "killed"
Tried = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one process ended, and what it said."""

    code: int
    said: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def in_the_middle(self) -> bool:
        """Whether the function at which it was killed was still running."""
        return "killed owner inside" in self.said


def configure(folder: Path, text: str = "") -> Path:
    """The tiny example with two iterations, small batches and several shards; ``text``: more keys, as YAML."""
    path = folder / f"{NAME}.yaml"
    path.write_text(
        f"extends: {TINY}\nname: {NAME}\niterations: 2\n"
        "sampling: {prompts_per_iteration: 16, shard_prompts: 4}\n"
        "prompts: {max_held_out: 32}\n"
        "evaluation: {bootstrap_resamples: 200}\n"
        "gates: {convergence_window: null, max_kl: null, max_perplexity_rise: null, min_headroom: null}\n" + text
    )
    return path


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder with one run in it, and how its processes are started."""

    path: Path
    config: Path
    environment: Mapping[str, str]
    name: str = NAME

    @property
    def output(self) -> Path:
        return self.path / f"output-{self.name}"

    def run(self, *points: str, limit_s: float = 900) -> Ended:
        """One process, to its end or to the point where it is killed."""
        return self.wait(self.start(*points), limit_s)

    def start(self, *points: str) -> "subprocess.Popen[bytes]":
        """One process, in a group of its own."""
        self.path.mkdir(exist_ok=True)
        command = [sys.executable, str(DRIVER), str(self.path), str(self.config), self.name, *points]
        with self.output.open("w") as output:
            return subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )

    def wait(self, process: "subprocess.Popen[bytes]", limit_s: float = 900) -> Ended:
        try:
            code = process.wait(limit_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Ended(code, self.output.read_text())

    def digests(self) -> dict[str, str]:
        """Every byte that a commit covers, and the commits themselves."""
        root = self.path / "runs" / self.name
        kept = [p for p in sorted(root.rglob("*")) if p.is_file() and {"tables", "policy"} & set(p.parts)]
        kept += sorted(root.rglob("commit.json")) + sorted(root.rglob("report.json"))
        return {p.relative_to(root).as_posix(): file_digest(p) for p in kept}

    def projections(self) -> dict[str, Any]:
        """What MLflow and DVC's remote hold, without clocks: to be compared with an uninterrupted run."""
        return {"mlflow": mlflow_holds(f"sqlite:///{self.path}/mlflow.db"), "dvc": remote_holds(self.path)}


def mlflow_holds(uri: str) -> dict[str, Any]:
    """Runs, points, datasets, versions and aliases; asserts that no point is there twice."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("raft")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    points: dict[str, list[tuple[int, float]]] = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        steps = Counter(point.step for point in history)
        assert set(steps.values()) == {1}, f"{name} is there twice: {steps}"
        if not name.startswith(("seconds_", "peak_rss", "tokens_")):
            points[name] = sorted((point.step, point.value) for point in history)
    (version,) = client.search_model_versions(f"name = 'raft-{NAME}'")
    files = [f.path for n in ("base", "000", "001") for f in client.list_artifacts(run.info.run_id, f"iterations/{n}")]
    return {
        "points": points,
        "status": run.info.status,
        "params": dict(run.data.params),
        "commits": {key: value for key, value in run.data.tags.items() if key.startswith(("raft.", "dvc."))},
        "datasets": sorted(d.dataset.digest for d in run.inputs.dataset_inputs),
        "files": sorted(files),
        "version": (int(version.version), version.tags["raft.commit"]),
        "candidate": int(client.get_model_version_by_alias(f"raft-{NAME}", "candidate").version),
        "models": len(client.search_logged_models([experiment.experiment_id])),
    }


def remote_holds(workspace: Path) -> dict[str, str]:
    """Pointer → md5; asserts that payload, cache and remote hold what each of them names."""
    from tasks.versioning.listing import pointer_md5
    from tasks.versioning.pointers import content_md5

    pointers = sorted((workspace / "runs" / NAME).rglob("*.dvc"))
    for pointer in pointers:
        md5 = pointer_md5(pointer)
        assert content_md5(pointer.with_suffix("")) == md5, pointer
        listing = stored(workspace / ".dvc-remote", md5)
        for entry in json.loads(listing.read_bytes()):
            file = stored(workspace / ".dvc-remote", entry["md5"])
            assert file_md5(file) == entry["md5"], f"{entry['relpath']} of {pointer} in the remote"
    return {p.relative_to(workspace).as_posix(): pointer_md5(p) for p in pointers}


def stored(store: Path, md5: str) -> Path:
    return store / "files" / "md5" / md5[:2] / md5[2:]


def file_md5(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def in_mlflow() -> Callable[[str], dict[str, Any]]:
    return mlflow_holds


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prefect's and DVC's own folders of the whole session, apart from the user's."""
    base = tmp_path_factory.getbasetemp()
    return {"PREFECT_HOME": str(base / "prefect"), "DVC_SITE_CACHE_DIR": str(base / "dvc-site")}


@pytest.fixture(scope="session")
def new_workspace(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Callable[..., Workspace]:
    """``make("text of more keys", VARIABLE=…)``: a fresh workspace."""

    def make(text: str = "", **environment: str) -> Workspace:
        folder = tmp_path_factory.mktemp("fault")
        return Workspace(folder / "workspace", configure(folder, text), {**settings, **environment})

    return make


@pytest.fixture(scope="session")
def undisturbed(new_workspace: Callable[..., Workspace]) -> Workspace:
    """A workspace with one whole run. DVC's cache shares its bytes: work on a copy."""
    workspace = new_workspace()
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    return workspace


@pytest.fixture(scope="session")
def uninterrupted(undisturbed: Workspace) -> tuple[dict[str, str], dict[str, Any]]:
    """Digests and projections of a run that nobody disturbed."""
    return undisturbed.digests(), undisturbed.projections()


class PrefectServer:
    """A real Prefect server on loopback: state, since it is stopped and started again."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.url = home, f"http://127.0.0.1:{self.port}/api"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, **DEFAULTS, "PREFECT_HOME": str(self.home)}
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            with suppress(OSError), urlopen(f"{self.url}/health", timeout=2):
                return
            time.sleep(0.5)
        raise AssertionError("Prefect's server did not start")

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def flow_runs(self) -> list[str]:
        request = Request(f"{self.url}/flow_runs/filter", data=b"{}", headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=30) as answer:
            found = sorted(json.loads(answer.read()), key=lambda run: str(run["created"]))
        return [run["state_name"] for run in found]


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


# -- the page -------------------------------------------------------------------------------------


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """``tried(fault, outcome, times=1)``: a line of docs/reliability.md, if the test passes."""
    where = str(getattr(request.module, "TITLE", "Other"))

    def note(fault: str, outcome: str, times: int = 1) -> None:
        request.node.user_properties.append(("tried", [where, fault, outcome, times]))

    return note


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability-page", type=Path, help="write what was tried, and its outcome, to this file")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--reliability-page", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Page(config.getoption("--reliability-page")), "reliability-page")


class Page:
    """Collects the outcomes of a session: state, since pytest reports test by test."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines, self.failed = path, Counter[tuple[str, str, str]](), list[str]()
        self.start = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call" and report.passed:
            for name, value in report.user_properties:
                if name == "tried":
                    where, fault, outcome, times = value  # type: ignore[misc]
                    self.lines[where, fault, outcome] += times

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return  # cut short: the page stays as it was
        minutes = (time.monotonic() - self.start) / 60
        seed = os.environ.get("RAFT_FAULT_SEED", "20230413")
        text = [HEAD.format(seed=seed, commit=commit(), minutes=minutes, machine=machine())]
        for where in dict.fromkeys(where for where, _, _ in self.lines):
            text += [f"\n## {where}\n", "| fault | times | outcome |", "|---|---|---|"]
            rows = [(fault, times, outcome) for (place, fault, outcome), times in self.lines.items() if place == where]
            text += [f"| {fault} | {times} | {outcome} |" for fault, times, outcome in sorted(rows)]
        text += [
            f"\n{len(self.failed)} of the tests failed: {', '.join(self.failed)}"
            if self.failed
            else "\nNo test failed."
        ]
        self.path.write_text("\n".join(text) + "\n", encoding="utf-8")


HEAD = """# Reliability: every fault that was tried

`make test-fault` wrote this page, in {minutes:.0f} minutes on {machine}, at commit {commit}. The points at
which processes are killed were drawn with seed {seed} (RAFT_FAULT_SEED sets another one). Each row is a test with the
real components: Prefect, MLflow, DVC, Great Expectations, DeepSpeed.

- "In the middle of" means that the named function was running when SIGKILL arrived, according to the log of the killed
  process.
- "The same end" means that tables, weights, reports and commits are the same, byte for byte, as in an undisturbed run;
  that MLflow has one run, each metric once per step, one model version and the alias; and that every DVC pointer and
  the remote are complete."""


def commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
