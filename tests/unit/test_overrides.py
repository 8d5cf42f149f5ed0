"""An override by its full path or by the end that names one key alone; what is meant by one that is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raft_core.config.loading import load_config
from raft_core.config.overrides import full_overrides, key_paths, nearest_key
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError


def test_a_bare_key_that_is_unique_is_taken_and_told(
    tmp_path: Path, plain_config: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(plain_config()))
    told: list[str] = []
    config = load_config(path, ["samples_per_prompt=3", "lora.r=4", "sampling.top_k=5", "seed=6"], told.append)
    assert (config.sampling.samples_per_prompt, config.sampling.top_k, config.seed) == (3, 5, 6)
    assert config.finetuning.lora is not None
    assert config.finetuning.lora.r == 4
    assert told == [
        "samples_per_prompt=3 is taken as sampling.samples_per_prompt=3",
        "lora.r=4 is taken as finetuning.lora.r=4",
    ]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        full_overrides(overrides, RaftConfig, lambda line: None)
    assert caught.value.hint
    return str(caught.value)


def test_a_key_of_several_names_lists_their_paths() -> None:
    assert "finetuning.dtype" in refusal("dtype=float32")
    assert "sampling.dtype" in refusal("dtype=float32")
    assert all(path in refusal("model=x") for path in ("policy.model", "scoring.rewards[0].model"))
    assert "selection.type" in refusal("type=threshold")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("--sampling.temperature=0.9", "write sampling.temperature=0.9"),
        ("--max-new-tokens=3", "write max_new_tokens=3"),
        ("--sampling.temperature", "write sampling.temperature=VALUE"),
        ("0.9", "KEY=VALUE"),
        ("a b=3", "KEY=VALUE"),
    ],
)
def test_what_is_not_key_and_value(text: str, told: str) -> None:
    message = refusal(text)
    assert text in message
    assert told in message


@pytest.mark.parametrize("path", sorted(set(key_paths(RaftConfig))))
def test_every_full_path_stays_as_it_is(path: str) -> None:
    told: list[str] = []
    assert full_overrides([f"{path}=1"], RaftConfig, told.append) == [f"{path}=1"]
    assert told == []
    assert nearest_key(path, RaftConfig) == path


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("samples_per_promt", "sampling.samples_per_prompt"),
        ("polcy.model", "policy.model"),
        ("sampling.learning_rate", "finetuning.learning_rate"),
        ("scoring.rewards.1.wieght", "scoring.rewards[0].weight"),
        ("gates.max_perplexity", "gates.max_perplexity_rise"),
        ("zzz", None),
    ],
)
def test_the_full_path_of_what_was_meant(wrong: str, meant: str | None) -> None:
    assert nearest_key(wrong, RaftConfig) == meant
