"""A chat template that prints the date: what is rendered does not depend on the day on which it is."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import InputError
from raft_core.policies.text import backend, model
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.policies.text.template import TemplateFault, dated, render_in_child
from raft_core.rewards.classifier import ClassifierRewardConfig
from raft_core.types import Prompt

pytestmark = pytest.mark.slow

TURNS = [{"role": "user", "content": "a"}]
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
DAY = "2026-01-05"


def rendered(template: str) -> str:
    (text,), _ = render_jinja_template(conversations=[TURNS], chat_template=template)
    return str(text)


class Later(datetime):
    """A clock that is years ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> "Later":
        return cls(2031, 12, 24, 18, 30, tzinfo=tz)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers sees another day."""
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Later)


@pytest.mark.parametrize(
    "form",
    ["%d %b %Y", "%Y-%m-%d", "%A, %B %-d, %Y", "%x %X %c", "%H:%M:%S.%f %p", "100%% %y %j %U %W %V %u %w", "%F%T%D%R"],
)
def test_the_fixed_day_is_printed_as_the_clock_would(form: str) -> None:
    assert rendered(dated(f"{{{{ strftime_now('{form}') }}}}", DAY)) == datetime(2026, 1, 5, tzinfo=UTC).strftime(form)


@pytest.mark.parametrize(
    "template",
    [
        "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}{%- endif %}{{ day }}",
        "{% macro opening() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ opening() }}",
        "{% set form = '%d ' ~ '%b %Y' %}{{ strftime_now(format=form) }}",
    ],
)
def test_however_a_template_asks(template: str, later: None) -> None:
    assert rendered(template) == "24 Dec 2031"
    assert rendered(dated(template, DAY)) == "05 Jan 2026"


@pytest.mark.parametrize(
    "opening", ["", "\n", "  ", "\n\n  ", "  {% if true %}\nb{% endif %}", "{#- c -#}\n x", "{%- if true -%}\n"]
)
def test_nothing_else_of_the_text_changes(opening: str) -> None:
    template = opening + "{% endif %}" * (opening == "{%- if true -%}\n") + PLAIN + "{# strftime_now #}"
    assert dated(template, DAY) != template
    assert rendered(dated(template, DAY)) == rendered(template)
    assert dated(PLAIN, DAY) == PLAIN


@pytest.fixture
def folder(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "m", chat_template=" w{{ strftime_now('%d') }}" + PLAIN)


def test_prompts_are_the_same_on_another_day(folder: Path, later: None) -> None:
    def ids(**policy: Any) -> list[str]:
        config = TextPolicyConfig(model=str(folder), chat_template=True, **policy)
        tokenizer = model.load_tokenizer(folder, config)
        (encoded,) = model.encode_prompts(tokenizer, [Prompt.of(" w1")], config)
        return list(tokenizer.convert_ids_to_tokens(encoded))

    assert ids(template_date="2026-01-17") == [" w17", " w1"]
    with pytest.raises(InputError, match=r"template_date: YYYY-MM-DD"):
        ids()


def test_the_check_says_which_day_it_is_and_whether_one_must_be_fixed(
    folder: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    def notes(**policy: Any) -> list[str]:
        config = TextPolicyConfig(model=str(folder), chat_template=True, **policy)
        return backend.check(config, [Prompt.of(" w1")], SamplingConfig(max_new_tokens=4))

    assert "2026-01-17" in notes(template_date="2026-01-17")[0]
    assert "the day on which the run starts" in notes()[0]
    plain = make_checkpoint(tmp_path / "plain", chat_template=PLAIN)
    asked = {
        (where.name, chat, day): backend.asks_for_date(
            TextPolicyConfig(model=str(where), chat_template=chat, template_date=day)
        )
        for where in (folder, plain)
        for chat, day in ((True, None), (True, DAY), (False, None))
    }
    assert [case for case, asks in asked.items() if asks] == [("m", True, None)]


def test_samples_of_another_day_are_other_samples(folder: Path) -> None:
    def ids(day: str) -> set[str]:
        config = TextPolicyConfig(model=str(folder), chat_template=True, template_date=day)
        policy = LoadedTextPolicy(backend.base_policy(config), config, dtype="float32")
        drawn = policy.sample([Prompt.of(" w1")], SamplingConfig(max_new_tokens=2), samples_per_prompt=1, seed=0)
        return {sample.sample_id for sample in drawn}

    assert ids(DAY) == ids(DAY)
    assert not ids(DAY) & ids("2026-01-06")


@pytest.mark.parametrize("draws", ["{{ ['x', 'y']|random }}", "{{ lipsum(1) }}", "{{ range(9)|list|random }}"])
def test_a_template_that_draws_random_text_is_refused(draws: str) -> None:
    with pytest.raises(TemplateFault, match="differently each time"):
        render_in_child(draws + PLAIN, [TURNS] * 4, {})


def test_a_date_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="template_date needs chat_template: true"):
        TextPolicyConfig(model="m", template_date=DAY)
    with pytest.raises(ValueError, match="template_date needs chat_template: true"):
        ClassifierRewardConfig(model="m", template_date=DAY)


@pytest.mark.parametrize("day", ["2026-02-30", "tomorrow", "20260105", "2026-1-5"])
def test_a_date_that_is_none(day: str) -> None:
    with pytest.raises(ValueError, match="template_date"):
        TextPolicyConfig(model="m", chat_template=True, template_date=day)
