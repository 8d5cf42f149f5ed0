"""A work pool: a worker executes what ``raft deploy --pool`` made, and dies; that of another machine goes on."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingRetry

from flows.orchestration import automations
from flows.orchestration.deployments import HEALED
from raft_core.records.run import read_chain, read_events, read_run, verify_outputs

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

SILENCE_S = 45
"""Instead of three minutes; Prefect's shortest heartbeat is half a minute."""


@pytest.fixture(scope="module")
def pool(site: Any) -> Any:
    """A site with a pool and two deployments, as docs/operations.md makes them."""
    (site.folder / "weekly.yaml").write_text("extends: nightly.yaml\nname: weekly\nseed: 9\niterations: 8\n")
    site.call("prefect", "work-pool", "create", "raft", "--type", "process")
    for name in ("nightly", "weekly"):
        told = site.call("raft", "deploy", f"{name}.yaml", "--pool", "raft")
        assert f"deployed raft-align/{name}" in told
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(automations, "SILENCE_S", SILENCE_S)
        patched.setattr(automations, "START_S", SILENCE_S)
        patched.setattr(automations, "CRASH_S", 2 * SILENCE_S)
        automations.keep_automations(site.client, automations.healing(HEALED))
    return site


def worker(pool: Any, name: str) -> Any:
    command = ("prefect", "worker", "start", "--pool", "raft", "--type", "process", "--name", name)
    return pool.start(f"worker-{name}.log", *command)


def wait(true: Any, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        time.sleep(0.2)


def trains(pool: Any, name: str) -> bool:
    return bool(list(pool.folder.glob(f"runs/{name}-*/iterations/000/work/finetune-*")))


def kill_process_of(flow_run: FlowRun) -> None:
    """SIGKILL to all processes that work on a flow run, but not to the worker that started them."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == str(flow_run.id):
                process.kill()
        except (psutil.Error, OSError):
            continue


@pytest.fixture(scope="module")
def killed(pool: Any, kill_tree: Any) -> dict[str, FlowRun]:
    """Two runs that trained on one worker: the process of the one was killed, then the worker with everything.

    The second is long, so that it still works when the worker has told of the first.
    """
    one = worker(pool, "one")
    runs = {"nightly": pool.trigger("raft-align/nightly")}
    wait(lambda: trains(pool, "nightly"), 600, "the first training of nightly")
    kill_process_of(runs["nightly"])
    runs["weekly"] = pool.trigger("raft-align/weekly")
    wait(lambda: "Crashed" in [name for name, _ in pool.states(runs["nightly"])], 600, "the word of its crash")
    wait(lambda: trains(pool, "weekly"), 600, "the first training of weekly")
    kill_tree(one)
    assert pool.state(runs["weekly"]) == "Running", "Prefect does not know yet"
    worker(pool, "two")
    return runs


@pytest.mark.parametrize("name", ["nightly", "weekly"])
def test_another_worker_goes_on_with_a_run_that_fell_silent(pool: Any, killed: dict[str, FlowRun], name: str) -> None:
    wait(lambda: "Completed" in [state for state, _ in pool.states(killed[name])], 900, f"the end of {name}")
    states = pool.states(killed[name])
    assert any(state == "AwaitingRetry" and told.startswith(automations.SILENT) for state, told in states)
    (folder,) = Path(pool.folder / "runs").glob(f"{name}-*")
    run = read_run(folder)
    assert len(read_events(run, "started")) == 2
    chain = read_chain(run)
    assert [commit.iteration for commit in chain] == list(range(-1, run.config.iterations))
    for commit in chain:
        verify_outputs(run, commit)
    sampled = [event for event in read_events(run, "step") if event["step"] == "sample" and event["iteration"] == 0]
    assert [event["reused"] for event in sampled].count(False) == 1, "what was sampled is not sampled again"


def started_in_vain(pool: Any, flow_run: FlowRun, state: str, folder: Path) -> None:
    """What the automation does to a run whose end it did not hear of."""
    processes, starts = len(read_events(read_run(folder), "started")), pool.client.read_flow_run(flow_run.id).run_count
    pool.client.set_flow_run_state(flow_run.id, AwaitingRetry(message=f"{automations.SILENT} {SILENCE_S} s"))
    wait(lambda: pool.client.read_flow_run(flow_run.id).run_count > starts, 600, "its needless start")
    wait(lambda: pool.state(flow_run) == state, 600, "the state that it had")
    assert len(read_events(read_run(folder), "started")) == processes


def test_what_ended_or_was_cancelled_is_not_done_again(pool: Any, killed: dict[str, FlowRun]) -> None:
    """Though its automation takes it for silent: on sqlite, Prefect's server can lose the word of an end."""
    ended = killed["weekly"]
    wait(lambda: pool.state(ended) == "Completed", 900, "the end of the first run")
    before = set((pool.folder / "runs").glob("weekly-*/base/tables"))
    cancelled: FlowRun = pool.trigger("raft-align/weekly", overrides=["seed=10", "iterations=12"])
    wait(lambda: set((pool.folder / "runs").glob("weekly-*/base/tables")) - before, 600, "the start of another run")
    pool.call("prefect", "flow-run", "cancel", str(cancelled.id))
    wait(lambda: pool.state(cancelled) == "Cancelled", 600, "its end")
    (tables,) = set((pool.folder / "runs").glob("weekly-*/base/tables")) - before
    started_in_vain(pool, ended, "Completed", next(iter(before)).parents[1])
    started_in_vain(pool, cancelled, "Cancelled", tables.parents[1])
    end = pool.client.read_flow_run(killed["nightly"].id).end_time
    wait(lambda: datetime.now(UTC) > end + timedelta(seconds=3 * SILENCE_S), 300, "a time in which it could be revived")
    wait(lambda: pool.state(killed["nightly"]) == "Completed", 600, "the end of what it was revived for, if it was")
    (folder,) = (pool.folder / "runs").glob("nightly-*")
    assert len(read_events(read_run(folder), "started")) == 2, "it was killed once, and did not begin again"
    pool.call("raft", "resume", tables.parents[1].name, "-q")
    assert len(read_chain(read_run(tables.parents[1]))) == 13, "a person goes on with what was cancelled"


def test_a_run_whose_worker_died_while_it_started_goes_on(pool: Any, kill_tree: Any) -> None:
    for process in pool.started:
        kill_tree(process)
    three = worker(pool, "three")
    flow_run: FlowRun = pool.trigger("raft-align/nightly", overrides=["seed=11", "iterations=1"])
    wait(lambda: pool.state(flow_run) == "Submitting", 600, "its submission")
    kill_tree(three)
    assert pool.state(flow_run) == "Submitting", "it was not heard of"
    worker(pool, "four")
    assert pool.ended(flow_run, "Completed")
