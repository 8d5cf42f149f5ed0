"""A run that is killed anywhere, any number of times, ends with the bytes of one that was not."""

import importlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

TITLE = "SIGKILL at drawn points"
SEED = int(os.environ.get("RAFT_FAULT_SEED", "20230413"))
SAME_END = "resumed, the same end"
ON_ITS_OWN = "the run continued by itself, the same end"

PLACES: dict[str, dict[str, int | float | tuple[str, ...]]] = {
    "evaluating": {
        "tasks.loop.evaluate:answer": 50000,
        "tasks.loop.evaluate:evaluation_table": 8000,
        "tasks.loop.evaluate:report": 5000,
    },
    "sampling": {
        "tasks.loop.sample:_sample_shard": 19000,
        "tasks.loop.sample:keep_shard": 110,
        "tasks.loop.sample:draw_prompts": 2400,
    },
    "a Parquet write": {
        "raft_core.records.tables:write_tables": (
            "ParquetWriter.write_table",
            "ParquetWriter.close",
            "fsync",
            "replace",
            "fsync_folder",
        )
    },
    "a durable write (bytes aside, fsync, rename, fsync)": {
        "raft_core.files.artifacts:write_bytes": ("Path.write_bytes", "fsync", "replace", "fsync_folder")
    },
    "scoring and validating": {
        "tasks.loop.score:score": 30000,
        "tasks.validation.check:check": 800000,
        "tasks.loop.select:select": 650,
    },
    "training": {
        "tasks.loop.finetune:finetune": 0.6,
        "raft_core.launch.processes:_await_end": 0.5,
        "raft_core.policies.text.finetune:_judge": 350,
    },
    "recording a finished step": {"raft_core.records.steps:write_json": 90, "flows.loop.session:record_event": 120},
    "the files of a commit": {
        "tasks.loop.commit:commit": 28000,
        "tasks.loop.commit:_sweep": 70,
        "tasks.loop.commit:digest_of": 25,
        "tasks.loop.commit:write_commit": 2500,
    },
    "DVC's add": {
        "tasks.versioning.pointers:_add": 80000,
        "tasks.versioning.pointers:_link": 35,
        "tasks.versioning.pointers:ensure_repository": 250,
    },
    "DVC's push": {"tasks.versioning.remote:transfer": 22000, "tasks.versioning.remote:record_event": 130},
    "logging to MLflow": {
        "tasks.tracking.runs:_log_params": 2200,
        "tasks.tracking.runs:_log_points": 20000,
        "tasks.tracking.runs:_log_files": 16000,
        "tasks.tracking.runs:_log_inputs": 5000,
        "tasks.tracking.runs:_set_status": 8000,
        "tasks.tracking.connection:_create_store": 1200000,
    },
    "recording a sync": {"tasks.loop.sync:record_event": 100},
    "registering": {
        "tasks.tracking.registry:_external_model": 35000,
        "tasks.tracking.registry:_create_version": 18000,
        "tasks.tracking.registry:_alias_of": 12000,
    },
}
"""What is going on → functions that do it → where their middle is: so many calls that a function makes (about, on the
tiny example), the seconds that it waits, or the names of what it calls."""

CHILDREN = {
    "a training process": "raft_core.launch.processes:_await_end:during@{:.2f}:1:rank",
    "the fork server": "raft_core.launch.processes:_await_end:during@{:.2f}:1:forkserver",
    "Prefect's temporary server": "tasks.loop.sample:_sample_shard:during@{:.2f}:1:prefect",
}

Make = Callable[..., Any]
Tried = Callable[..., None]
Expected = tuple[dict[str, str], dict[str, Any]]


def test_every_place_is_a_function_that_is_there() -> None:
    """A point at a function that was renamed would never be reached."""
    for function in (function for functions in PLACES.values() for function in functions):
        module, path = function.split(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        assert callable(found), function


@pytest.mark.parametrize(
    ("point", "where"),
    [
        ("json:dumps:before:1", "outside"),
        ("json:dumps:after:1", "outside"),
        ("json:dumps:inside@9:1", "inside"),
        ("json:dumps:inside@JSONEncoder.encode:1", "inside"),
        ("json:dumps:inside@100000:1", "outside"),
        ("json:dumps:during@60:1", "outside"),
        ("time:sleep:during@0.1:1", "inside"),
    ],
)
def test_the_killed_process_says_where_it_was(point: str, where: str) -> None:
    code = "import json, time; from killed_run import arm; arm(%r); json.dumps([[1]], indent=1); time.sleep(60)"
    command = [sys.executable, "-c", code % point]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, f"killed owner {where}\n"), done.stderr


def draw(points: random.Random, place: str) -> str:
    """One point of a place: a function, a call of it, and before, after or (three times of four) in its middle."""
    function = points.choice(list(PLACES[place]))
    when, middle = points.choice(["before", "after", *["inside"] * 6]), PLACES[place][function]
    if when == "inside" and isinstance(middle, float):
        when = f"during@{points.uniform(0.0, middle):.2f}"
    elif when == "inside":
        when = f"inside@{points.randint(1, middle) if isinstance(middle, int) else points.choice(middle)}"
    return f"{function}:{when}:{points.choice([1, 1, 1, 2])}"


def kill_often(part: int, number: int, make: Make, expected: Expected, tried: Tried, **environment: str) -> None:
    """Kill at ``number`` drawn points, run after run; whatever survives its point must end as expected."""
    points = random.Random(SEED + part)
    print(f"RAFT_FAULT_SEED={SEED}")
    places = list(PLACES)
    workspace, done, waiting = make(**environment), 0, list[str]()
    while done < number:
        waiting = waiting or points.sample(places, len(places))
        place = waiting.pop()
        point = draw(points, place)
        ended = workspace.run(point)
        if ended.killed:
            done += 1
            note(place, ended, tried)
            print(point, "in the middle" if ended.in_the_middle else "before or after")
            continue
        assert ended.code == 0, f"after {point}: {ended.said[-3000:]}"
        same_end(workspace, expected)
        workspace = make(**environment)
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    same_end(workspace, expected)


def note(place: str, ended: Any, tried: Tried) -> None:
    tried(f"in the middle of {place}" if ended.in_the_middle else f"just before or just after {place}", SAME_END)


def same_end(workspace: Any, expected: Expected) -> None:
    assert workspace.digests() == expected[0]
    assert workspace.projections() == expected[1]


@pytest.mark.timeout(1800)
def test_killed_in_training_and_in_tracking(uninterrupted: Expected, new_workspace: Make, tried: Tried) -> None:
    workspace = new_workspace()
    for place, point in {
        "training": "raft_core.launch.processes:_await_end:inside@_ConnectionBase.recv:1",
        "logging to MLflow": "tasks.tracking.runs:_log_files:inside@4000:2",
    }.items():
        ended = workspace.run(point)
        assert ended.killed, f"{point} was not reached: {ended.said[-2000:]}"
        assert ended.in_the_middle, f"{point} was not in the middle: {ended.said[-2000:]}"
        note(place, ended, tried)
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    same_end(workspace, uninterrupted)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_killed_at_eight_points(uninterrupted: Expected, new_workspace: Make, tried: Tried) -> None:
    kill_often(0, 8, new_workspace, uninterrupted, tried)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "child", [pytest.param(c, marks=pytest.mark.full if "training" in c else pytest.mark.soak) for c in CHILDREN]
)
def test_a_child_is_killed(child: str, uninterrupted: Expected, new_workspace: Make, tried: Tried) -> None:
    workspace = new_workspace()
    ended = workspace.run(CHILDREN[child].format(random.Random(SEED).uniform(0.1, 0.6)))
    assert "killed " in ended.said, "nothing was killed"
    assert ended.code == 0, ended.said[-3000:]
    same_end(workspace, uninterrupted)
    tried(f"{child} alone", ON_ITS_OWN)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(2))
def test_killed_at_sixty_points(
    part: int, uninterrupted: Expected, new_workspace: Make, prefect_server: Any, tried: Tried
) -> None:
    """A lasting Prefect server spares each process the start of its own."""
    kill_often(1 + part, 30, new_workspace, uninterrupted, tried, PREFECT_API_URL=prefect_server.url)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_group_is_killed_at_any_moment(uninterrupted: Expected, new_workspace: Make, tried: Tried) -> None:
    """Everything at once, children too, as by the kernel when memory runs out."""
    moments = random.Random(SEED)
    workspace = new_workspace()
    for _ in range(6):
        process = workspace.start()
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(4, 25))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            tried("the whole process group, at any moment", SAME_END)
        workspace.wait(process)
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    same_end(workspace, uninterrupted)
