"""Load the rewards that a configuration names, each with its name, weight and the code that it came with."""

from dataclasses import dataclass

from raft_core.config.scoring import ScoringConfig
from raft_core.errors import ConfigError, ExampleError, RaftError
from raft_core.rewards.base import RewardConfig, reward_name
from raft_core.rewards.registry import REWARDS
from raft_core.rewards.score import NamedReward


@dataclass(frozen=True, slots=True)
class Rewards:
    """The rewards that select, and the gold rewards that are only reported, in the configuration's order."""

    rewards: tuple[NamedReward, ...]
    gold: tuple[NamedReward, ...]

    @property
    def identities(self) -> dict[str, str]:
        """Component name → identity of every reward: a part of the scoring step's key."""
        return {r.name: r.reward.identity for r in (*self.rewards, *self.gold)}

    @property
    def sources(self) -> dict[str, dict[str, str]]:
        """Component name → what the reward was loaded from, by digest."""
        return {r.name: {**r.reward.sources, **r.brought} for r in (*self.rewards, *self.gold)}


def check_rewards(scoring: ScoringConfig, *, weights: bool = True) -> Rewards:
    """Load every reward, the cheap ones first, so that an invalid one is found before a policy is loaded.

    Without ``weights`` large models are only checked, and the result cannot score.
    Raises ConfigError or InputError that names every reward that cannot be loaded, each with a hint; ExampleError
    if the only problem is that an example is not prepared yet.
    """
    configs = (*scoring.rewards, *scoring.gold)
    loaded: dict[str, NamedReward] = {}
    faults: list[RaftError] = []
    unprepared: list[ExampleError] = []
    for config in sorted(configs, key=lambda c: c.loads_weights):
        if faults and config.loads_weights and weights:
            break
        try:
            loaded[reward_name(config)] = named(config, weights=weights)
        except ExampleError as error:
            unprepared.append(error)
        except RaftError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise ConfigError(
            "\n".join([f"{len(faults)} rewards cannot be loaded:", *(f"- {f}" for f in faults)]),
            hint="correct each reward as its own message says",
        )
    if unprepared:
        raise unprepared[0]
    return Rewards(
        tuple(loaded[reward_name(c)] for c in scoring.rewards), tuple(loaded[reward_name(c)] for c in scoring.gold)
    )


def named(config: RewardConfig, *, weights: bool = True) -> NamedReward:
    """Load one reward under its name and weight."""
    return NamedReward(reward_name(config), config.weight, config.load(weights=weights), REWARDS.sources(config))
