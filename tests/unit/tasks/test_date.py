"""The date that a chat template prints is fixed when a run begins, and stays."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raft_core.config.loading import check_config
from raft_core.config.run import RaftConfig
from raft_core.errors import InputError
from raft_core.records.run import Run, open_run, read_run
from tasks.loop.template_date import dated, refuse_undated
from tasks.promotion import evidence

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def configured(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., RaftConfig]:
    """``configured(template, **policy)``: a configuration of a chat model."""

    def build(template: str, **policy: object) -> RaftConfig:
        folder = make_checkpoint(tmp_path / "model", chat_template=template)
        plain = {
            "name": "chat",
            "policy": {"model": str(folder), "chat_template": True, **policy},
            "prompts": {"train": "prompts.jsonl"},
            "scoring": {"rewards": ({"type": "lexicon"},)},
        }
        return check_config(plain, where="test")

    return build


def test_a_run_keeps_the_day_on_which_it_began(configured: Callable[..., RaftConfig], tmp_path: Path) -> None:
    config = configured("{{ strftime_now('%d') }}" + TEMPLATE)
    folder = tmp_path / "runs" / "one"
    for today in ("2026-01-05", "2026-01-06"):
        run = open_run(folder.parent, "one", dated(config, folder, today))
        assert run.config.policy.template_date == "2026-01-05"
        assert read_run(folder).config == run.config
        refuse_undated(run)
    assert dated(config, tmp_path / "runs" / "two", "2026-01-06").policy.template_date == "2026-01-06"
    fixed = configured("{{ strftime_now('%d') }}" + TEMPLATE, template_date="2025-07-01")
    assert dated(fixed, tmp_path / "runs" / "two", "2026-01-06") == fixed


def test_a_template_without_a_date_needs_none(configured: Callable[..., RaftConfig], tmp_path: Path) -> None:
    config = configured(TEMPLATE)
    assert dated(config, tmp_path / "runs" / "one", "2026-01-05") == config
    refuse_undated(Run(tmp_path / "runs" / "one", config))
    plain = configured("{{ strftime_now('%d') }}" + TEMPLATE, chat_template=False)
    assert dated(plain, tmp_path / "runs" / "one", "2026-01-05") == plain


def test_a_run_that_began_without_a_date_is_refused(configured: Callable[..., RaftConfig], tmp_path: Path) -> None:
    config = configured("{{ strftime_now('%d') }}" + TEMPLATE)
    run = open_run(tmp_path / "runs", "old", config)
    assert dated(config, run.path, "2026-01-05") == config
    with pytest.raises(InputError, match=r"\brun old\b") as refused:
        refuse_undated(run)
    assert "policy.template_date" in str(refused.value.expected)


def test_such_a_run_is_not_measured_for_a_promotion(
    configured: Callable[..., RaftConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SimpleNamespace(digest="0" * 64)
    monkeypatch.setattr(evidence, "_measurement", lambda *_: (None, key))
    monkeypatch.setattr(evidence, "modality", lambda _: pytest.fail("went on"))
    run = Run(tmp_path / "runs" / "old", configured("{{ strftime_now('%d') }}" + TEMPLATE))
    side, exam = cast(Any, SimpleNamespace(run=run)), cast(Any, SimpleNamespace(prompts=(), suite=None))
    with pytest.raises(InputError, match=r"policy\.template_date"):
        evidence.check_side(side, exam, tmp_path, now=datetime.now(UTC), max_age=timedelta(days=1))
