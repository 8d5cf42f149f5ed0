"""A run that is killed anywhere, any number of times, ends with the bytes of one that was not."""

import importlib
import os
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

TITLE = "SIGKILL at drawn points"
SEED = int(os.environ.get("RAFT_FAULT_SEED", "20230413"))
SAME_END = "taken up again, the same end"
ON_ITS_OWN = "the run went on by itself, the same end"

PLACES = {
    "evaluating": ["tasks.evaluate:answer", "tasks.evaluate:evaluation_table", "tasks.evaluate:report"],
    "sampling": ["tasks.shards:_sample_shard", "tasks.shards:keep_shard", "tasks.sample:draw_prompts"],
    "a Parquet write": ["pyarrow.parquet:ParquetWriter.write_table", "pyarrow.parquet:ParquetWriter.close"],
    "a rename": ["raft_core.records.artifacts:fsync_folder", "raft_core.records.artifacts:write_bytes"],
    "scoring and validating": ["tasks.score:score", "tasks.check:check", "tasks.select:select"],
    "training": ["tasks.finetune:finetune", "raft_core.launch:_await_end", "raft_core.policies.text.finetune:_judge"],
    "noting a finished step": ["raft_core.records.steps:write_json", "flows.session:record_event"],
    "the files of a commit": ["tasks.commit:_sweep", "tasks.commit:digest_of", "tasks.commit:write_commit"],
    "DVC's add": ["tasks.version:_add", "tasks.version:_link", "tasks.version:ensure_repository"],
    "DVC's push": ["tasks.remote:transfer", "tasks.remote:record_event"],
    "logging to MLflow": [
        "tasks.track:_log_params", "tasks.track:_log_points", "tasks.track:_log_files", "tasks.track:_log_inputs",
        "tasks.track:_set_status", "tasks.tracking:_create_store",
    ],
    "noting a projection": ["tasks.project:record_event"],
    "registering": [
        "tasks.register:_external_model", "tasks.register:_create_version", "tasks.register:_alias_of",
    ],
}  # fmt: skip
"""What is going on → functions that do it."""

CHILDREN = {
    "a training process": "raft_core.launch:_await_end:during@{:.2f}:1:rank",
    "the fork server": "raft_core.launch:_await_end:during@{:.2f}:1:forkserver",
    "Prefect's temporary server": "tasks.shards:_sample_shard:during@{:.2f}:1:prefect",
}

Make = Callable[..., Any]
Tried = Callable[..., None]
Expected = tuple[dict[str, str], dict[str, Any]]


def test_every_place_is_a_function_that_is_there() -> None:
    """A point at a function that was renamed would never be reached."""
    for place in (place for places in PLACES.values() for place in places):
        module, path = place.split(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        assert callable(found), place


def draw(points: random.Random, place: str) -> str:
    """One point of a place: a function, a call of it, and before, after or in the middle of it."""
    when = points.choice(["before", "after", f"during@{points.uniform(0.0, 0.4):.2f}"])
    return f"{points.choice(PLACES[place])}:{when}:{points.choice([1, 1, 1, 2])}"


def kill_often(seed: int, number: int, make: Make, expected: Expected, tried: Tried, **environment: str) -> None:
    """Kill at ``number`` drawn points, run after run; whatever survives its point must end as expected."""
    points = random.Random(seed)
    print(f"RAFT_FAULT_SEED={seed}")
    places = list(PLACES)
    workspace, done, waiting = make(**environment), 0, list[str]()
    while done < number:
        waiting = waiting or points.sample(places, len(places))
        place = waiting.pop()
        point = draw(points, place)
        ended = workspace.run(point)
        if ended.killed:
            done += 1
            tried(f"in the middle of {place}", SAME_END)
            continue
        assert ended.code == 0, f"after {point}: {ended.said[-3000:]}"
        same_end(workspace, expected)
        workspace = make(**environment)
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    same_end(workspace, expected)


def same_end(workspace: Any, expected: Expected) -> None:
    assert workspace.digests() == expected[0]
    assert workspace.projections() == expected[1]


@pytest.mark.timeout(900)
def test_killed_in_training_and_in_tracking(uninterrupted: Expected, new_workspace: Make, tried: Tried) -> None:
    workspace = new_workspace()
    for place, point in {
        "training": "raft_core.launch:_await_end:during@0.30:1",
        "logging to MLflow": "tasks.track:_log_files:before:2",
    }.items():
        ended = workspace.run(point)
        assert ended.killed, f"{point} was not reached: {ended.said[-2000:]}"
        tried(f"in the middle of {place}", SAME_END)
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    same_end(workspace, uninterrupted)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_killed_at_eight_points(uninterrupted: Expected, new_workspace: Make, tried: Tried) -> None:
    kill_often(SEED, 8, new_workspace, uninterrupted, tried)


@pytest.mark.timeout(900)
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
    kill_often(SEED + 1 + part, 30, new_workspace, uninterrupted, tried, PREFECT_API_URL=prefect_server.url)


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
