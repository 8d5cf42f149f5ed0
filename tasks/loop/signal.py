"""Whether a run can learn anything, as far as that can be known before the first sample.

What only the scores can tell is checked after the first scoring (``signal_share`` in ``validation.expectations``).
"""

from collections.abc import Iterator, Sequence

from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.rewards.load import Rewards
from raft_core.types import Prompt

GO_ON = "or set validation.min_signal_share: 0 to go on all the same"


def check_signal(config: RaftConfig, rewards: Rewards, train: Sequence[Prompt]) -> list[str]:
    """What a person should know before anything is sampled.

    Raises ConfigError where selection would have nothing to choose from, unless ``validation.min_signal_share`` is 0.
    """
    faults = [*_alike(config), *_silent(rewards, train)]
    if faults and config.validation.min_signal_share > 0:
        raise ConfigError(
            "this run has no signal to learn from",
            got="; ".join(what for what, _ in faults),
            expected="candidates that the reward can tell apart",
            hint=f"{'; '.join(dict.fromkeys(advice for _, advice in faults))}, {GO_ON}",
        )
    return [f"no signal to learn from: {what}" for what, _ in faults] + _doubtful(rewards, train)


def _alike(config: RaftConfig) -> Iterator[tuple[str, str]]:
    """Settings under which everything is kept, or all candidates of a prompt are the same text."""
    selection, sampling = config.selection, config.sampling
    per_prompt = sampling.samples_per_prompt
    if advice := selection.keeps_everything(per_prompt):
        yield (f"selection {selection.type} with sampling.samples_per_prompt {per_prompt} keeps every sample", advice)
    if per_prompt > 1 and sampling.top_k == 1:
        yield (
            f"sampling.top_k 1 gives {per_prompt} equal samples a prompt",
            "raise sampling.top_k, or set it to 0 (no limit)",
        )


def _silent(rewards: Rewards, train: Sequence[Prompt]) -> Iterator[tuple[str, str]]:
    """Rewards whose sum cannot differ between samples."""
    if all(reward.weight == 0 for reward in rewards.rewards):
        yield "the weight of every reward is 0", "give one of scoring.rewards a weight"
    if all(_needs_references(reward.reward) for reward in rewards.rewards) and _no_reference(train):
        yield (
            "every reward compares with references, and no training prompt has one",
            "give each prompt its reference: the key `reference` of a JSON line, the column `reference` of a CSV or "
            "Parquet file",
        )


def _doubtful(rewards: Rewards, train: Sequence[Prompt]) -> list[str]:
    """What is odd, but leaves something to learn."""
    wanting = [reward.name for reward in rewards.rewards if _needs_references(reward.reward)]
    known = {reward.reward.identity: reward.name for reward in rewards.rewards}
    told = []
    if 0 < len(wanting) < len(rewards.rewards) and _no_reference(train):
        told.append(f"reward {', '.join(wanting)} compares with references, and no training prompt has one")
    for gold in rewards.gold:
        if (same := known.get(gold.reward.identity)) is not None:
            told.append(f"gold reward {gold.name} is the reward {same}: it cannot show that the reward is gamed")
    return told


def _needs_references(reward: object) -> bool:
    return bool(getattr(reward, "needs_references", False))


def _no_reference(train: Sequence[Prompt]) -> bool:
    return all(prompt.reference is None for prompt in train)
