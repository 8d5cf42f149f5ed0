"""The launcher for a cluster, against a kubectl that keeps one Job in a folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from raft_core.errors import StepError
from raft_core.launch import processes

pytestmark = pytest.mark.slow

KUBERNETES = Path(__file__).parents[3] / "infra" / "kubernetes"
SCRIPT = KUBERNETES / "launch.sh"
KUBECTL = """#!{python} -IS
import json, os, pathlib, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
job, ended = here / "job.json", here / "ended"
with open(here / "calls", "a") as calls:
    print(*words, file=calls)
if words[:2] == ["create", "job"]:
    assert words[3:] == ["--from=cronjob/train", "--dry-run=client", "--output=json"], words
    print(json.dumps({{"metadata": {{"name": words[2]}}, "env": []}}))
elif words[:2] == ["set", "env"]:
    told = json.load(sys.stdin)
    print(json.dumps({{**told, "env": [words[-1]]}}))
elif words[0] == "create":
    job.write_text(sys.stdin.read())
elif words[0] == "delete":
    job.unlink(missing_ok=True)
elif words[0] == "get" and (here / "away").exists():
    (here / "away").unlink()
    sys.exit("the server is away")
elif words[0] == "get" and job.exists():
    print(words[2], ended.read_text() if ended.exists() else "", end="")
elif words[0] == "logs":
    print("[rank] out of memory")
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the fake: ``job.json`` is the Job that runs, ``ended`` the condition that it will be found in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {"kubectl": KUBECTL.format(python=sys.executable), "sleep": "#!/bin/sh\nexec /bin/sleep .05\n"}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(processes.LAUNCHER, str(SCRIPT))
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "finetune-1" / "job.json"
    path.parent.mkdir(parents=True)
    return path


def calls(cluster: Path) -> list[str]:
    return (cluster / "calls").read_text().splitlines()


def test_a_training_that_completes(cluster: Path, job: Path) -> None:
    (cluster / "ended").write_text("SuccessCriteriaMet Complete")
    (cluster / "away").touch()
    assert processes.run_launched(job, job.parent)
    first, *making, _, _, last = calls(cluster)
    plain, described, setting = sorted(making)  # of one pipe
    assert plain == "create --filename=-"
    assert setting == f"set env --local --filename=- --output=json RAFT_JOB={job}"
    name = described.split()[2]
    assert first == f"delete job {name} --ignore-not-found --cascade=foreground --timeout=5m"
    assert last == f"delete job {name} --ignore-not-found --cascade=foreground --wait=false"
    assert not (cluster / "job.json").exists()


def test_a_training_that_fails_says_why(cluster: Path, job: Path) -> None:
    (cluster / "ended").write_text("FailureTarget Failed")
    with pytest.raises(StepError, match="exit code 1") as caught:
        processes.run_launched(job, job.parent)
    assert "[rank] out of memory" in str(caught.value.got)
    assert not (cluster / "job.json").exists()


def test_a_job_that_somebody_removed_is_a_failure(cluster: Path, job: Path) -> None:
    with running(cluster, job) as process:
        (cluster / "job.json").unlink()
        assert process.wait(20) == 1


@contextmanager
def running(cluster: Path, job: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The launcher (or a ``command`` that starts it) with a Job that does not end."""
    process = subprocess.Popen(command or [SCRIPT, job], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (cluster / "job.json").exists() or not (cluster / "job.json").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def test_sigterm_ends_the_job(cluster: Path, job: Path) -> None:
    with running(cluster, job) as process:
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not (cluster / "job.json").exists()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_the_job_ends_with_its_owner(cluster: Path, job: Path, ending: signal.Signals) -> None:
    code = "import pathlib, sys; from raft_core.launch import processes; job = pathlib.Path(sys.argv[1]);"
    owner = (sys.executable, "-c", f"{code} processes.run_launched(job, job.parent)", str(job))
    with running(cluster, job, *owner) as process:
        process.send_signal(ending)
        process.wait(20)
        deadline = time.monotonic() + 20
        while (cluster / "job.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not (cluster / "job.json").exists()


def test_another_attempt_at_an_iteration_has_the_same_name_and_removes_what_was_left(cluster: Path, job: Path) -> None:
    (cluster / "ended").write_text("Complete")
    second_attempt = job.parents[1] / "finetune-2" / "job.json"
    elsewhere = job.parents[2] / "other" / "finetune-1" / "job.json"
    for attempt in (job, second_attempt, elsewhere):
        attempt.parent.mkdir(parents=True, exist_ok=True)
        assert processes.run_launched(attempt, attempt.parent)
    first, second, other = (call.split()[2] for call in calls(cluster) if call.startswith("create job"))
    assert first == second != other


def test_the_worker_has_the_launcher_and_the_rights_that_it_uses() -> None:
    folder = KUBERNETES / "overlays" / "deepspeed"
    worker = yaml.safe_load((folder / "worker.yaml").read_text())["spec"]["template"]["spec"]
    (setting,) = worker["containers"][0]["env"]
    assert setting == {"name": processes.LAUNCHER, "value": f"/opt/raft/{SCRIPT.relative_to(KUBERNETES.parents[1])}"}
    assert os.access(SCRIPT, os.X_OK)
    account, role, binding = yaml.safe_load_all((folder / "launcher.yaml").read_text())
    assert worker["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    needed = {("jobs", verb) for verb in ("create", "delete", "get", "list", "watch")}
    assert needed | {("cronjobs", "get"), ("pods", "get"), ("pods", "list"), ("pods/log", "get")} == allowed
