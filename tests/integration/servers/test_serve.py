"""``raft deploy --serve``: every deployment does its work on a real server; overlapping runs wait or are refused."""

import json
import time
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from flows.orchestration.overlap import limit_name
from raft_core.promotion.ledger import FileLedger
from raft_core.records.run import Run, read_chain, read_events, read_run

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

NEVER = "0 0 29 2 *"
OPEN = """bootstrap_resamples: 200
gates: {min_reward_gain: null, max_gold_loss: null, max_perplexity_rise: null, min_distinct_1: null,
  min_distinct_2: null, max_kl: null, max_truncation_rise: null, max_slice_loss: null, min_safe_share: null}
"""
WAITS = """import time
from pathlib import Path

def length(prompts, completions):
    Path("{at_work}").touch()
    while not Path("{go}").exists():
        time.sleep(0.1)
    return [float(len(completion)) for completion in completions]
"""


@pytest.fixture(scope="module")
def served(site: Any) -> Any:
    """A site whose four deployments are worked off; no schedule comes due by itself."""
    (site.folder / "configs").mkdir()
    (site.folder / "configs" / "promotion.yaml").write_text(OPEN)
    (site.folder / "configs" / "retention.yaml").write_text("keep_runs: 0\nkeep_days: 0\n")
    others = ("--audit-cron", NEVER, "--audit-share", "1", "--gc-cron", NEVER, "--promotion-cron", NEVER)
    serving = site.start("serve.log", "raft", "deploy", "nightly.yaml", *others, "--serve")

    def deployed() -> bool:
        assert serving.poll() is None, (site.folder / "serve.log").read_text()[-3000:]
        try:
            site.client.read_deployment_by_name("raft-promotion/nightly")
        except ObjectNotFound:
            return False
        return True

    wait(deployed, 600, "the deployment")
    return site


def wait(true: Any, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        time.sleep(0.5)


def runs(site: Any) -> list[Run]:
    return [read_run(path) for path in sorted((site.folder / "runs").glob("nightly-*")) if path.is_dir()]


@pytest.fixture(scope="module")
def aligned(served: Any) -> Run:
    """What the deployment of the alignment made, once."""
    served.ended(served.trigger("raft-align/nightly"), "Completed")
    (run,) = runs(served)
    return run


def test_the_audit_rehashes_every_commit(served: Any, aligned: Run) -> None:
    message = served.ended(served.trigger("raft-audit/nightly"), "Completed")
    assert message.endswith(": 1 runs, 3 commits, 3 rehashed")
    (line,) = (served.folder / "audits.jsonl").read_text().strip().splitlines()
    assert set(json.loads(line)["commits"]) == {f"{aligned.name} {c.digest}" for c in read_chain(aligned)}


def test_the_promotion_check_makes_a_champion_once(served: Any, aligned: Run) -> None:
    served.ended(served.trigger("raft-promotion/nightly", reason="every week"), "Promoted")
    (entry,) = FileLedger(served.folder / "ledger.jsonl").entries()
    assert (entry.kind, entry.body["requested_by"], entry.body["reason"]) == ("promoted", "schedule", "every week")
    (finished,) = read_events(aligned, "finished")
    assert (entry.body["run"], entry.body["iteration"]) == (aligned.name, finished["best"])
    version = MlflowClient(f"sqlite:///{served.folder}/mlflow.db").get_model_version_by_alias(
        "raft-nightly", "champion"
    )
    assert version.tags["raft.commit"] == entry.body["commit"]
    told = served.ended(served.trigger("raft-promotion/nightly"), "Unchanged")
    assert "raft-nightly" in told
    assert len(FileLedger(served.folder / "ledger.jsonl").entries()) == 1


def test_retention_follows_the_rules_of_the_workspace_and_spares_the_champion(served: Any, aligned: Run) -> None:
    champion = FileLedger(served.folder / "ledger.jsonl").entries()[0].body["iteration"]
    would = served.ended(served.trigger("raft-gc/nightly", remove=False), "Completed")
    assert "1 policies" in would
    assert all((aligned.folder(n) / "policy").exists() for n in (0, 1))
    served.ended(served.trigger("raft-gc/nightly"), "Completed")
    assert [n for n in (0, 1) if (aligned.folder(n) / "policy").exists()] == [champion]
    assert all(aligned.table(n, "samples").exists() for n in (0, 1))
    (gone,) = read_events(aligned, "collected")
    assert gone["iteration"] != champion


def test_an_audit_that_finds_damage_fails_and_names_it(served: Any, aligned: Run) -> None:
    table = aligned.table(1, "samples")
    whole = table.read_bytes()
    table.chmod(0o644)
    table.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    told = served.ended(served.trigger("raft-audit/nightly"), "Failed")
    table.write_bytes(whole)
    assert "tables/samples.parquet" in told


def test_a_scheduled_run_that_meets_another_is_refused(served: Any, aligned: Run) -> None:
    def scheduled(*states: str) -> list[FlowRun]:
        """Runs that the schedule began, by the states that they are in (all: none)."""
        found = served.client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200)
        began = [run for run in found if run.auto_scheduled and not run.state.is_scheduled()]
        return [run for run in began if not states or run.state.name in states]

    before, (at_work, go) = runs(served), (served.folder / name for name in ("at-work", "go"))
    (served.folder / "waits.py").write_text(WAITS.format(at_work=at_work, go=go))
    reward = "scoring.rewards=[{type: function, function: waits.py:length}]"
    first = served.trigger("raft-align/nightly", overrides=[reward, "iterations=1", "seed=5"])
    wait(at_work.exists, 600, "the first at work")
    served.call("raft", "deploy", "nightly.yaml", "--every", "60", "--overlap", "refuse", "--new-seed")
    wait(lambda: scheduled("Refused"), 900, "a refusal")
    served.call("raft", "deploy", "nightly.yaml")
    wait(lambda: all(run.state.is_final() for run in scheduled()), 600, "the end of what the schedule began")
    go.touch()
    served.ended(first, "Completed")
    assert "raft-nightly" in scheduled("Refused")[0].state.message
    assert len(scheduled("Refused", "Skipped")) == len(scheduled())
    (run,) = [run for run in runs(served) if run.path not in {run.path for run in before}]
    assert len(read_events(run, "finished")) == 1, "refused runs leave nothing; the one that they met went on"


def test_a_queued_run_waits_for_the_one_before(served: Any, aligned: Run) -> None:
    before = runs(served)
    served.call("raft", "deploy", "nightly.yaml", "--overlap", "queue")
    both: list[FlowRun] = []
    with concurrency(limit_name("raft-nightly"), strict=True, timeout_seconds=300):
        for seed in (11, 12):
            both.append(served.trigger("raft-align/nightly", overrides=[f"seed={seed}", "iterations=1"]))
            time.sleep(1.1)  # a run is named after its second
        wait(lambda: all(served.state(run) == "Running" for run in both), 600, "both inside their flow runs")
    for flow_run in both:
        served.ended(flow_run, "Completed")
    one, other = [run for run in runs(served) if run.path not in {run.path for run in before}]
    spans = sorted(
        (read_events(run, "started")[0]["time"], read_events(run, "finished")[0]["time"]) for run in (one, other)
    )
    assert spans[0][1] < spans[1][0], "the second began when the first had ended"
