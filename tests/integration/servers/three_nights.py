"""Three scheduled alignments on a real Prefect server, the second of them killed in the middle.

    python tests/integration/servers/three_nights.py [FOLDER]

Starts a server on a free loopback port and ``raft deploy --serve`` beside it, lets the schedule work, ends the
serving process and all its children with SIGKILL while the second run trains, starts it again, and waits for three
completed runs. Prints a timeline, then one JSON document: what each run was called, how often it was started, and
whether its bytes are those of an uninterrupted run. Exit code 0 if everything holds. Takes some three minutes.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from flows.process.environment import DEFAULTS
from raft_core.records.run import Commit, Run, read_chain, read_events, read_run, verify_outputs

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
EVERY_S = 75
CONFIG = f"""extends: {TINY}
name: nightly
iterations: 2
sampling: {{prompts_per_iteration: 16}}
prompts: {{max_held_out: 32}}
evaluation: {{bootstrap_resamples: 200}}
gates: {{convergence_window: null, max_kl: null, max_perplexity_rise: null, min_headroom: null}}
"""
START = time.monotonic()


def tell(text: str) -> None:
    print(f"{time.monotonic() - START:6.1f} s  {text}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, name: str, api: str, *command: str) -> subprocess.Popen[bytes]:
    """A program of this environment, in a session of its own, so that a kill reaches all that it started."""
    environment = {
        **os.environ,
        **DEFAULTS,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": api,
        "RAFT_WORKSPACE": str(folder / "work"),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / f"{name}.log").open("ab") as log:
        program = str(Path(sys.executable).parent / command[0])
        return subprocess.Popen(
            [program, *command[1:]],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=folder / "work",
            start_new_session=True,
        )


def kill_all_of(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process, what it started, and what these started, in whatever session they are."""
    with suppress(psutil.NoSuchProcess):
        for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def until(true: Callable[[], object], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not happen within {within_s:g} s")
        time.sleep(0.5)


def flow_runs(api: str) -> list[dict[str, Any]]:
    body = json.dumps({"flows": {"name": {"any_": ["raft-align"]}}}).encode()
    request = Request(f"{api}/flow_runs/filter", data=body, headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())
    return sorted(found, key=lambda run: str(run["expected_start_time"]))


def healthy(api: str) -> bool:
    try:
        with urlopen(f"{api}/health", timeout=2):
            return True
    except (URLError, OSError):
        return False


def runs(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "work" / "runs").glob("nightly-*") if path.is_dir())


def trains(folder: Path) -> bool:
    """Whether the second run is training its first policy."""
    return len(runs(folder)) >= 2 and bool(list(runs(folder)[1].glob("iterations/000/work/finetune-*")))


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="raft-nights-")).absolute()
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "work" / "nightly.yaml").write_text(CONFIG)
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    tell(f"everything lies in {folder}")
    server = start(folder, "server", api, "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    serve = None
    try:
        until(lambda: healthy(api), 600, "the start of Prefect's server")
        tell(f"Prefect's server answers at {api}")
        deploy = ("raft", "deploy", "nightly.yaml", "--every", str(EVERY_S), "--new-seed", "--serve")
        serve = start(folder, "serve", api, *deploy)
        serve = three_runs(folder, api, serve, deploy)
        report(folder, api)
    finally:
        for process in (serve, server):
            if process is not None:
                kill_all_of(process)


def three_runs(
    folder: Path, api: str, serve: subprocess.Popen[bytes], deploy: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    """Watch until three runs are complete, with a kill in the middle of the second."""
    told: set[str] = set()

    def look() -> int:
        for run in flow_runs(api):
            due, state = run["expected_start_time"][11:19], run["state"]["name"]
            line = f"flow run {run['name']} of {due}, start {run['run_count']}: {state}"
            if run["state"]["type"] != "SCHEDULED" and line not in told:
                told.add(line)
                tell(line)
        return sum(
            run["state"]["type"] == "COMPLETED" and run["state"]["name"] == "Completed" for run in flow_runs(api)
        )

    until(lambda: look() >= 1, 240, "the first run")
    until(lambda: look() >= 1 and trains(folder), 240, "the training of the second run")
    kill_all_of(serve)
    tell(f"SIGKILL to raft deploy --serve and all its children, while {runs(folder)[1].name} trains")
    time.sleep(3)
    again = start(folder, "serve", api, *deploy)
    tell("raft deploy --serve again")
    until(lambda: look() >= 3, 600, "the third run")
    return again


def report(folder: Path, api: str) -> None:
    """Hold every run against an uninterrupted one with its seed, elsewhere."""
    done = [run for run in flow_runs(api) if run["state"]["name"] == "Completed"][:3]
    killed = runs(folder)[1].name
    facts = []
    for flow_run in done:
        due = datetime.fromisoformat(flow_run["expected_start_time"])
        run = read_run(folder / "work" / "runs" / f"nightly-{due:%Y%m%d-%H%M%S}")
        chain = read_chain(run)
        for commit in chain:
            verify_outputs(run, commit)
        facts.append(
            {
                "run": run.name,
                "killed": run.name == killed,
                "scheduled": flow_run["expected_start_time"],
                "starts": flow_run["run_count"],
                "processes": len(read_events(run, "started")),
                "commits": len(chain),
                "seed": run.config.seed,
                "same_bytes": straight(folder, run) == chain,
            }
        )
    print(json.dumps(facts, indent=1))
    taken_up = [fact for fact in facts if fact["killed"] and fact["starts"] > 1 and fact["processes"] > 1]
    raise SystemExit(0 if len(facts) == 3 and all(f["same_bytes"] for f in facts) and taken_up else 1)


def straight(folder: Path, run: Run) -> list[Commit]:
    """The commits of an uninterrupted run with the same seed, elsewhere."""
    elsewhere = folder / "straight"
    elsewhere.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    program = str(Path(sys.executable).parent / "raft")
    subprocess.run(
        [program, "align", "../work/nightly.yaml", f"seed={run.config.seed}", "--name", run.name, "-q"],
        env={**environment, "RAFT_WORKSPACE": str(elsewhere)},
        cwd=elsewhere,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return read_chain(read_run(elsewhere / "runs" / run.name))


if __name__ == "__main__":
    main()
