"""What is deployed, without a server: parameters of plain types, checked before anything is contacted."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.cli.commands.deployment import _below
from flows.orchestration.automations import HEARTBEAT_S, SILENCE_S
from flows.orchestration.deployments import deployments, plan
from flows.orchestration.scheduled import scheduled_name
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.records.names import registered_name

CONFIG = """
name: small
policy: {model: m}
prompts: {train: p.jsonl}
scoring: {rewards: [{type: lexicon}]}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


def test_each_schedule_is_a_deployment(workspace: Path) -> None:
    asked = plan(
        config="small.yaml",
        workspace=workspace,
        cron="0 3 * * *",
        audit_cron="0 6 * * 0",
        gc_cron="0 7 * * 0",
        promotion_cron="0 5 * * *",
    )
    made = {d.flow_name: d for d in deployments(asked, {})}
    assert made.keys() == {"raft-align", "raft-audit", "raft-gc", "raft-promotion"}
    (schedule,) = made["raft-align"].schedules or []
    assert schedule.schedule.model_dump()["cron"] == "0 3 * * *"
    assert made["raft-align"].parameters["config"] == "small.yaml"
    assert made["raft-align"].entrypoint == "flows.orchestration.scheduled.scheduled_align"


def test_prefects_form_shows_every_parameter_with_its_type(workspace: Path) -> None:
    (align,) = deployments(plan(config="small.yaml", workspace=workspace), {})
    shown = align._parameter_openapi_schema.properties
    assert {name: field["type"] for name, field in shown.items()} == {
        "config": "string",
        "workspace": "string",
        "overrides": "array",
        "run_name": "string",
        "new_seed": "boolean",
        "overlap": "string",
    }
    assert shown["overlap"]["enum"] == ["queue", "refuse"]
    assert align._parameter_openapi_schema.required == ["config", "workspace"]
    assert all(field.get("description") for field in shown.values())


def test_a_pools_jobs_get_the_quiet_environment_and_heartbeats_within_the_silence(workspace: Path) -> None:
    asked = plan(config="small.yaml", workspace=workspace, pool="gpu", image="raft-mlops:cuda")
    (align,) = deployments(asked, {"DO_NOT_TRACK": "1"})
    assert align.work_pool_name == "gpu"
    found = align.job_variables["env"]
    assert found == {"DO_NOT_TRACK": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
    assert 2 * HEARTBEAT_S < SILENCE_S, "one lost heartbeat must not start a run again"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"cron": "every night"}, "cron"),
        ({"audit_share": 0}, "audit_share"),
        ({"overlap": "both"}, "overlap"),
        ({"every_s": 1}, "every_s"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"image": "x"}, "pool"),
        ({"webhook": "http://127.0.0.1/", "no_webhook": True}, "--no-webhook"),
        ({"run_name": "{config}-{seed}"}, r"\{config\}-\{seed\}"),
        ({"run_name": "{config}/{date}"}, "cannot name a run"),
        ({"overrides": ("iterations=0",)}, "iterations"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(workspace: Path, wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(config="small.yaml", workspace=workspace, **wrong)


def test_without_a_server_it_says_how_to_start_one(
    workspace: Path, raft: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    code, _, told = raft("deploy", str(workspace / "small.yaml"))
    assert code == 2
    assert "prefect server start" in told


def test_runs_are_named_after_the_time_for_which_they_were_scheduled(small_config: RaftConfig) -> None:
    when = datetime.fromisoformat("2026-02-03T04:05:06+01:00")
    assert scheduled_name("{config}-{date}-{time}", small_config, when) == "hand-20260203-030506"
    assert scheduled_name("fixed", small_config, when.astimezone(UTC)) == "fixed"
    with pytest.raises(ConfigError, match="template"):
        scheduled_name("{seed}", small_config, when)


def test_the_slot_is_that_of_the_registered_model(small_config: RaftConfig) -> None:
    assert registered_name(small_config) == "raft-hand"


def test_a_configuration_is_named_relative_to_the_workspace(tmp_path: Path) -> None:
    assert _below(tmp_path / "configs" / "a.yaml", tmp_path) == Path("configs/a.yaml")
    assert _below(Path("/elsewhere/a.yaml"), tmp_path) == Path("/elsewhere/a.yaml")
