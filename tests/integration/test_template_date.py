"""A chat template that prints the date, in a run that is cut off and goes on another day."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import flows.loop.align
from flows.cli import exits
from flows.cli.app import app
from flows.loop.align import align_run
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.errors import StepError
from raft_core.policies.text.model import encode_prompts, load_tokenizer
from raft_core.prompts.splits import load_prompts
from raft_core.records.run import read_events, read_run
from raft_core.records.tables import SAMPLES, read_table

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
TEMPLATE = (
    "{% if strftime_now('%d') == '05' %}the {% else %}a {% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)


def on(day: int) -> type[datetime]:
    """A clock that stands on a day of January."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2026, 1, day, 12, tzinfo=tz)

    return Clock


def test_a_run_that_goes_on_another_day_renders_the_same_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples.prepare("tiny")
    model = Path(shutil.copytree(examples.resolve("example:tiny/policy"), tmp_path / "model"))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    overrides = [
        f"policy.model={model}",
        "policy.chat_template=true",
        "iterations=1",
        "sampling.prompts_per_iteration=4",
        "prompts.max_held_out=4",
        "versioning.enabled=false",
        "evaluation.bootstrap_resamples=200",
    ]
    config = load_config(TINY, overrides)

    def align() -> None:
        align_run(config, name="dated", workspace=tmp_path, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")

    def cut_off(*_: object) -> None:
        raise StepError("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(flows.loop.align, "datetime", on(5))
        patched.setattr(flows.loop.align, "conclude", cut_off)
        with pytest.raises(StepError, match="cut off"):
            align()
    monkeypatch.setattr(flows.loop.align, "datetime", on(6))
    align()
    run = read_run(tmp_path / "runs" / "dated")
    assert run.config.policy.template_date == "2026-01-05"
    assert any("2026-01-05" in event["message"] for event in read_events(run, "warning"))
    prompts = {p.prompt_id: p for p in load_prompts(Path(examples.resolve("example:tiny/prompts.train")), "text")}
    rows = read_table(run.table(0, "samples"), SAMPLES, ["prompt_id", "prompt_token_ids"]).to_pylist()
    asked = [prompts[row["prompt_id"]] for row in rows]
    expected, other = (
        encode_prompts(
            load_tokenizer(model, config.policy), asked, config.policy.model_copy(update={"template_date": day})
        )
        for day in ("2026-01-05", "2026-01-06")
    )
    assert expected != other
    assert [row["prompt_token_ids"] for row in rows] == expected
    monkeypatch.setenv("RAFT_WORKSPACE", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    again = ["align", str(TINY), *overrides, "--name", "dated"]
    assert exits.run_command(app, again) == exits.DONE, "the same command goes on with it, on a third day"
