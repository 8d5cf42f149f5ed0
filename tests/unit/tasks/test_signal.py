"""What can be known to be without signal before the first sample."""

from typing import Any

import pytest

from raft_core.config.loading import check_config
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.rewards.load import Rewards
from raft_core.rewards.score import NamedReward
from raft_core.types import Prompt
from tasks.loop.signal import check_signal


class Reward:
    """A reward that is never called."""

    def __init__(self, identity: str = "a", needs_references: bool = False) -> None:
        self.identity, self.needs_references = identity, needs_references

    def __call__(self, prompts: Any, completions: Any) -> list[float]:
        raise AssertionError("not scored")


def rewards(*found: Reward, weight: float = 1.0, gold: tuple[Reward, ...] = ()) -> Rewards:
    return Rewards(
        tuple(NamedReward(f"r{i}", weight, reward) for i, reward in enumerate(found)),
        tuple(NamedReward(f"g{i}", 1.0, reward) for i, reward in enumerate(gold)),
    )


def config_of(least: float = 0.01, per_prompt: int = 4, top_k: int = 0, **selection: Any) -> RaftConfig:
    return check_config(
        {
            "name": "x",
            "policy": {"model": "m"},
            "prompts": {"train": "p"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
            "sampling": {"samples_per_prompt": per_prompt, "top_k": top_k},
            "validation": {"min_signal_share": least},
            "selection": selection or {"type": "best_of_k"},
        },
        where="a test",
    )


PLAIN = [Prompt.of("one"), Prompt.of("two")]
ANSWERED = [Prompt.of("one", reference="1"), Prompt.of("two")]

HOPELESS = [
    (config_of(per_prompt=1), rewards(Reward()), PLAIN, "best_of_k with sampling.samples_per_prompt 1"),
    (
        config_of(per_prompt=1, type="top_fraction"),
        rewards(Reward()),
        PLAIN,
        "top_fraction with sampling.samples_per_prompt 1",
    ),
    (config_of(type="top_fraction", fraction=1), rewards(Reward()), PLAIN, "selection top_fraction"),
    (config_of(per_prompt=1, type="best_then_top", fraction=1), rewards(Reward()), PLAIN, "selection best_then_top"),
    (config_of(top_k=1), rewards(Reward()), PLAIN, "sampling.top_k 1"),
    (config_of(), rewards(Reward(), Reward("b"), weight=0.0), PLAIN, "the weight of every reward is 0"),
    (config_of(), rewards(Reward(needs_references=True)), PLAIN, "no training prompt has one"),
]


@pytest.mark.parametrize(("config", "found", "train", "told"), HOPELESS)
def test_what_cannot_learn_is_refused_with_the_key_that_lets_it_go_on(
    config: RaftConfig, found: Rewards, train: list[Prompt], told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_signal(config, found, train)
    assert told in str(refused.value)
    assert "validation.min_signal_share: 0" in str(refused.value)
    anyway = config.model_copy(update={"validation": config.validation.model_copy(update={"min_signal_share": 0.0})})
    (warning,) = check_signal(anyway, found, train)
    assert told in warning


@pytest.mark.parametrize(
    ("config", "found", "train"),
    [
        (config_of(), rewards(Reward()), PLAIN),
        (config_of(per_prompt=1, type="threshold", threshold=0.5), rewards(Reward()), PLAIN),
        (config_of(per_prompt=1, type="all_best"), rewards(Reward()), PLAIN),
        (config_of(per_prompt=1, type="best_then_top"), rewards(Reward()), PLAIN),
        (config_of(per_prompt=1, type="top_fraction", fraction=0.2), rewards(Reward()), PLAIN),
        (config_of(), rewards(Reward(needs_references=True)), ANSWERED),
    ],
)
def test_what_may_learn_is_let_alone(config: RaftConfig, found: Rewards, train: list[Prompt]) -> None:
    assert check_signal(config, found, train) == []


def test_what_is_odd_is_a_warning() -> None:
    both = rewards(Reward("a"), Reward("b", needs_references=True), gold=(Reward("a"), Reward("c")))
    told = check_signal(config_of(), both, PLAIN)
    assert len(told) == 2
    assert "reward r1" in told[0]
    assert "reference" in told[0]
    assert "gold reward g0" in told[1]
    assert "reward r0" in told[1]
