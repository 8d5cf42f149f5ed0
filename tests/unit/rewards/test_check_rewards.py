"""Rewards are loaded before a policy is, the cheap ones first, and every fault is told."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from raft_core.config import scoring
from raft_core.config.loading import check_config
from raft_core.config.run import RaftConfig
from raft_core.config.scoring import ScoringConfig
from raft_core.errors import ConfigError, ExampleError, InputError
from raft_core.rewards.load import check_rewards
from raft_core.rewards.registry import REWARDS


def test_order_and_weights_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(prompts, completions):\n    return [1.0 for _ in completions]\n")
    scoring = ScoringConfig.model_validate(
        {
            "rewards": [{"type": "lexicon", "weight": 2}, {"type": "function", "function": f"{tmp_path}/mine.py:f"}],
            "gold": [{"type": "lexicon", "name": "watch"}],
        }
    )
    rewards = check_rewards(scoring)
    assert [(r.name, r.weight) for r in rewards.rewards] == [("lexicon", 2.0), ("function", 1.0)]
    assert [r.name for r in rewards.gold] == ["watch"]
    assert list(rewards.identities) == ["lexicon", "function", "watch"]
    assert rewards.identities["lexicon"] == rewards.identities["watch"] != rewards.identities["function"]


def test_the_table_has_every_type_that_a_configuration_can_name() -> None:
    union, _ = get_args(scoring.AnyRewardConfig)
    assert {kind.model_fields["type"].default for kind in get_args(union)} == set(REWARDS.own)


def test_one_fault_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        check_rewards(ScoringConfig.model_validate({"rewards": [{"type": "lexicon", "file": f"{tmp_path}/none"}]}))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    scoring = {
        "rewards": [{"type": "function", "function": f"{tmp_path}/bad.py:f"}],
        "gold": [{"type": "lexicon", "file": f"{tmp_path}/none"}, {"type": "linear", "model": f"{tmp_path}/none"}],
    }
    with pytest.raises(ConfigError) as told:
        check_rewards(ScoringConfig.model_validate(scoring))
    assert str(told.value).startswith("3 rewards")
    for part in ("syntax error", "WORD<tab>SCORE", "vocabulary.json"):
        assert part in str(told.value)


def test_two_rewards_of_an_example_that_is_not_prepared_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "nothing"))
    scoring = {
        "rewards": [{"type": "classifier", "model": "example:reviews/reward"}],
        "gold": [{"type": "linear", "model": "example:reviews/gold"}],
    }
    with pytest.raises(ExampleError):
        check_rewards(ScoringConfig.model_validate(scoring), weights=False)
    scoring["rewards"].append({"type": "lexicon", "file": f"{tmp_path}/none"})
    with pytest.raises(InputError, match="lexicon"):
        check_rewards(ScoringConfig.model_validate(scoring), weights=False)


def test_an_unknown_reward_is_refused_with_the_configuration() -> None:
    config = {
        "name": "x",
        "policy": {"model": "m"},
        "prompts": {"train": "p"},
        "scoring": {"rewards": [{"type": "magic"}]},
    }
    with pytest.raises(ValidationError):
        RaftConfig.model_validate(config)
    with pytest.raises(ConfigError) as told:
        check_config(config, where="my.yaml")
    assert "scoring.rewards" in str(told.value)
    assert "magic" in str(told.value)
    for known in REWARDS.own:
        assert known in str(told.value)
