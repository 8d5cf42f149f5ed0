"""Whether a run can learn anything, as far as this can be known before the first sample.

The rest is checked after the first scoring (``signal_share`` in ``validation.expectations``).
"""

from collections.abc import Iterator, Sequence

from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.rewards.load import Rewards
from raft_core.types import Prompt

GO_ON = "or set validation.min_signal_share: 0 to run anyway"


def check_signal(config: RaftConfig, rewards: Rewards, train: Sequence[Prompt]) -> list[str]:
    """Warnings to show before anything is sampled.

    Raises ConfigError if selection would have no choice, unless ``validation.min_signal_share`` is 0.
    """
    faults = [*_alike(config), *_silent(rewards, train)]
    if faults and config.validation.min_signal_share > 0:
        raise ConfigError(
            "this configuration gives the run nothing to learn from",
            got="; ".join(what for what, _ in faults),
            expected="samples with different rewards",
            hint=f"{'; '.join(dict.fromkeys(advice for _, advice in faults))}, {GO_ON}",
        )
    return [f"nothing to learn from: {what}" for what, _ in faults] + _doubtful(rewards, train)


def _alike(config: RaftConfig) -> Iterator[tuple[str, str]]:
    """Settings that select every sample, or that make all samples of a prompt equal."""
    selection, sampling = config.selection, config.sampling
    per_prompt = sampling.samples_per_prompt
    if advice := selection.keeps_everything(per_prompt):
        yield (f"selection {selection.type} with sampling.samples_per_prompt {per_prompt} selects every sample", advice)
    if per_prompt > 1 and sampling.top_k == 1:
        yield (
            f"sampling.top_k 1 makes the {per_prompt} samples of each prompt equal",
            "raise sampling.top_k, or set it to 0 (no limit)",
        )


def _silent(rewards: Rewards, train: Sequence[Prompt]) -> Iterator[tuple[str, str]]:
    """Rewards whose weighted sum cannot differ between samples."""
    if all(reward.weight == 0 for reward in rewards.rewards):
        yield "the weight of every reward is 0", "give at least one of scoring.rewards a weight other than 0"
    if all(_needs_references(reward.reward) for reward in rewards.rewards) and _no_reference(train):
        yield (
            "every reward needs a reference, and no training prompt has one",
            "add a reference to each prompt: the key `reference` in JSON lines, the column `reference` in CSV and "
            "Parquet files",
        )


def _doubtful(rewards: Rewards, train: Sequence[Prompt]) -> list[str]:
    """Settings that look wrong but leave something to learn."""
    wanting = [reward.name for reward in rewards.rewards if _needs_references(reward.reward)]
    known = {reward.reward.identity: reward.name for reward in rewards.rewards}
    warnings = []
    if 0 < len(wanting) < len(rewards.rewards) and _no_reference(train):
        warnings.append(f"reward {', '.join(wanting)} needs a reference, and no training prompt has one")
    for gold in rewards.gold:
        if (same := known.get(gold.reward.identity)) is not None:
            warnings.append(
                f"gold reward {gold.name} is the same as reward {same}, so it cannot show whether the policy exploits "
                "that reward"
            )
    return warnings


def _needs_references(reward: object) -> bool:
    return bool(getattr(reward, "needs_references", False))


def _no_reference(train: Sequence[Prompt]) -> bool:
    return all(prompt.reference is None for prompt in train)
