"""The rewards that a configuration can name: ours, and those of installed packages (``raft_core.plugins``)."""

from raft_core.plugins import Registry
from raft_core.rewards.base import RewardConfig

REWARDS = Registry(
    "raft.rewards",
    RewardConfig,  # type: ignore[type-abstract]
    {
        "function": "raft_core.rewards.function:FunctionRewardConfig",
        "classifier": "raft_core.rewards.classifier:ClassifierRewardConfig",
        "linear": "raft_core.rewards.linear:LinearRewardConfig",
        "lexicon": "raft_core.rewards.lexicon:LexiconRewardConfig",
    },
)
