"""What the configuration refuses, and the defaults that must not drift."""

from collections.abc import Callable
from typing import Any

import pytest

from raft_core.config.loading import check_config
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.rewards.base import reward_name
from raft_core.selection.best_of_k import BestOfK

Plain = Callable[..., dict[str, Any]]


def faults(plain: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_config(plain, where="c.yaml")
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines() if line.startswith("  - ")]


def test_the_smallest_configuration_takes_the_vetted_defaults(checked_config: Callable[..., RaftConfig]) -> None:
    config = checked_config()
    assert config.selection == BestOfK()
    assert (config.sampling.samples_per_prompt, config.sampling.temperature) == (8, 0.85)
    assert config.loss_temperature == 0.85
    assert (config.finetuning.learning_rate, config.finetuning.zero_stage) == (3.5e-4, 2)
    assert (config.gates.max_kl, config.gates.convergence_window) == (2.0, 3)


@pytest.mark.parametrize(
    ("part", "key", "facts"),
    [
        (
            {"sampling": {"samples_per_prompt": 0}},
            "sampling.samples_per_prompt",
            ["greater than or equal to 1", "got 0"],
        ),
        ({"sampling": {"temperature": 0}}, "sampling", ["temperature", "8 ", "samples_per_prompt: 1"]),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature", ["finite", "got nan"]),
        ({"sampling": {"temperature": "hot"}}, "sampling.temperature", ["number", "got 'hot'"]),
        ({"sampling": {"samples_per_prompt": True}}, "sampling.samples_per_prompt", ["integer", "got True"]),
        ({"sampling": {"samples_per_prompt": "8"}}, "sampling.samples_per_prompt", ["integer", "got '8'"]),
        ({"sampling": {"temprature": 1}}, "sampling.temprature", ["did you mean sampling.temperature?"]),
        ({"sampling": {"xyzzy": 1}}, "sampling.xyzzy", ["unknown key", "remove"]),
        ({"sampling": 3}, "sampling", ["mapping", "got 3"]),
        (
            {"sampling": {"min_new_tokens": 9, "max_new_tokens": 8}},
            "sampling",
            ["min_new_tokens 9", "max_new_tokens 8"],
        ),
        ({"sampling": {"stop": [""]}}, "sampling", ["stop", "empty", "remove"]),
        ({"sampling": {"batch_prompts": "all"}}, "sampling.batch_prompts", ["integer", "'auto'", "got 'all'"]),
        ({"scoring": {"rewards": []}}, "scoring.rewards", ["at least 1 item"]),
        ({"scoring": {"rewards": [{"type": "nope"}]}}, "scoring.rewards.0.type", ["'nope'", "'function'", "'lexicon'"]),
        ({"scoring": {"rewards": [{"file": "x"}]}}, "scoring.rewards.0.type", ["is required"]),
        ({"scoring": {"rewards": [{"type": "function"}]}}, "scoring.rewards.0.function", ["is required"]),
        (
            {"scoring": {"rewards": [{"type": "function", "function": "no colon"}]}},
            "scoring.rewards.0.function",
            ["'no colon'", "file.py:FUNCTION"],
        ),
        ({"scoring": {"rewards": [{"type": "lexicon"}] * 2}}, "scoring", ["lexicon", "`name`"]),
        ({"selection": {"type": "top_fraction", "fraction": 0}}, "selection.fraction", ["greater than 0", "got 0"]),
        ({"selection": {"type": "threshold"}}, "selection.threshold", ["is required"]),
        ({"selection": {"type": "threshold", "threshold": float("inf")}}, "selection.threshold", ["finite", "got inf"]),
        ({"finetuning": {"batch_size": 3, "ranks": 2}}, "finetuning", ["batch_size 3", "ranks 2"]),
        ({"finetuning": {"micro_batch_size": 5}}, "finetuning", ["micro_batch_size 5", "16"]),
        ({"finetuning": {"loss_temperature": 0}}, "finetuning", ["loss_temperature", "above 0", "10", "got 0"]),
        ({"finetuning": {"merge": True, "lora": None}}, "finetuning", ["merge", "lora"]),
        ({"finetuning": {"lora": {"r": 0}}}, "finetuning.lora.r", ["greater than or equal to 1", "got 0"]),
        ({"policy": {"model": "m", "system_prompt": "s"}}, "policy", ["system_prompt", "chat_template: true"]),
        ({"policy": {}}, "policy.model", ["is required"]),
        ({"name": "no/slash"}, "name", ["pattern", "got 'no/slash'"]),
        ({"polcy": {}}, "polcy", ["did you mean policy?"]),
        ({"selection": {"type": "best_of_k", "fraction": 0.5}}, "selection.fraction", ["another `type`"]),
        (
            {"policy": {"type": "tabular", "model": "m", "chat_template": True}},
            "policy.chat_template",
            ["another `type`"],
        ),
        ({"policy": {"type": "image", "model": "m"}}, "policy.type", ["'image'", "'text', 'tabular'"]),
        (
            {"scoring": {"rewards": [{"type": "lexicon", "function": "a:b"}]}},
            "scoring.rewards.0.function",
            ["another `type`"],
        ),
        (
            {"validation": {"min_valid_per_prompt": 9}},
            "(whole file)",
            ["validation.min_valid_per_prompt 9", "sampling.samples_per_prompt 8"],
        ),
        (
            {"sampling": {"temperature": 0, "samples_per_prompt": 1}},
            "(whole file)",
            ["finetuning.loss_temperature: sampling", "sampling.temperature above 0"],
        ),
    ],
)
def test_each_fault_is_told_with_its_key(plain_config: Plain, part: dict[str, Any], key: str, facts: list[str]) -> None:
    lines = faults(plain_config(**part))
    assert len(lines) == 1
    assert lines[0].startswith(f"{key}: ")
    assert [fact for fact in facts if fact not in lines[0]] == []


def test_all_faults_are_told_at_once(plain_config: Plain) -> None:
    lines = faults(
        plain_config(
            sampling={"samples_per_prompt": 0, "top_p": 2, "temprature": 1},
            scoring={"rewards": [{"type": "nope"}, {"type": "lexicon", "weight": "x"}]},
            selection={"type": "top_fraction", "fraction": 3},
            iterations=0,
        )
    )
    keys = {line.split(": ")[0] for line in lines}
    assert keys == {
        "sampling.samples_per_prompt",
        "sampling.top_p",
        "sampling.temprature",
        "scoring.rewards.0.type",
        "scoring.rewards.1.weight",
        "selection.fraction",
        "iterations",
    }


def test_greedy_with_one_sample_and_a_stated_loss_temperature_runs(checked_config: Callable[..., RaftConfig]) -> None:
    config = checked_config(sampling={"temperature": 0, "samples_per_prompt": 1}, finetuning={"loss_temperature": 1})
    assert config.loss_temperature == 1


def test_a_reward_is_called_by_its_name_or_its_type(checked_config: Callable[..., RaftConfig]) -> None:
    rewards = [{"type": "lexicon"}, {"type": "lexicon", "name": "mine"}]
    config = checked_config(scoring={"rewards": rewards})
    assert [reward_name(r) for r in config.scoring.rewards] == ["lexicon", "mine"]


def test_a_configuration_cannot_be_changed(checked_config: Callable[..., RaftConfig]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        checked_config().sampling.temperature = 2.0  # type: ignore[misc]
