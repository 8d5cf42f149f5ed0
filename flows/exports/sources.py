"""What a run was made from: models, prompts, rewards and code; where each comes from, and its licence where known."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flows.exports.dossier import Dossier
from raft_core.examples.packages import PACKAGES, Package
from raft_core.examples.presets import EXAMPLES
from raft_core.losses.registry import LOSS
from raft_core.metrics.registry import METRIC
from raft_core.records.run import BASE
from raft_core.references import split_reference
from raft_core.rewards.base import RewardConfig, reward_name
from raft_core.rewards.lexicon import VADER
from raft_core.rewards.registry import REWARDS
from raft_core.selection.registry import SELECTION

GENERATED = "generated locally by RAFT; nothing is downloaded"
UNKNOWN = "not recorded"
KINDS = {SELECTION.rstrip("."): "selector", LOSS.rstrip("."): "loss", METRIC.rstrip("."): "metric"}
"""What the code of other packages is pinned under → what it is called."""


@dataclass(frozen=True, slots=True)
class Named:
    """One thing that the run was made from. ``digest``: sha256 where the commits hold it.

    ``kind``: a model or reward, data, or code that a package other than RAFT brought.
    """

    role: str
    reference: str
    digest: str | None = None
    kind: Literal["model", "data", "code"] = "model"

    @property
    def packages(self) -> tuple[Package, ...]:
        """The downloaded packages that a reference to an example is made from."""
        return packages_of(self.reference)

    @property
    def licence(self) -> str:
        """What is known of its licence, in one line."""
        if self.reference == VADER:
            return f"{PACKAGES['ratings'].name}: MIT"
        if split_reference(self.reference) is None:
            return UNKNOWN
        return "; ".join(f"{p.name} {p.version}: {p.licence}" for p in self.packages) or GENERATED


def named(dossier: Dossier) -> list[Named]:
    """Every model, file, function and plugin that the run was made with."""
    config = dossier.run.config
    inputs = _inputs(dossier)
    held_out = config.prompts.held_out or f"a share of {config.prompts.train}"
    rows = [
        Named("initial policy", config.policy.model, dossier.base.policy.digest),
        Named("training prompts", config.prompts.train, kind="data"),
        Named("held-out prompts", held_out, _held_out(dossier), "data"),
    ]
    if config.evaluation.perplexity_text:
        rows.append(Named("text for perplexity", config.evaluation.perplexity_text, inputs.get("texts"), "data"))
    for role, reward in _rewards(dossier):
        rows.append(Named(role, reward.reference, inputs.get(f"reward {reward_name(reward)}")))
    return [*rows, *_plugins(dossier)]


def _rewards(dossier: Dossier) -> Iterator[tuple[str, RewardConfig]]:
    """The rewards that select, then the gold rewards, each with its role."""
    scoring = dossier.run.config.scoring
    for kind, rewards in (("reward", scoring.rewards), ("gold reward", scoring.gold)):
        for reward in rewards:
            yield f"{kind} {reward_name(reward)}", reward


def _plugins(dossier: Dossier) -> Iterator[Named]:
    """Code and data of rewards and selectors that a package other than RAFT brought, as the commit pins them."""
    pinned: Mapping[str, Mapping[str, str]] = dossier.commit.content.get("rewards", {})
    for role, reward in _rewards(dossier):
        if reward.type not in REWARDS.own:
            for reference, digest in pinned.get(reward_name(reward), {}).items():
                yield Named(f"code of {role}", reference, digest, "code")
    for name, sources in pinned.items():
        kind, _, called = name.partition(".")
        if kind in KINDS:
            for reference, digest in sources.items():
                yield Named(f"code of {KINDS[kind]} {called}", reference, digest, "code")


def packages_of(reference: str) -> tuple[Package, ...]:
    """The downloaded packages behind ``example:EXAMPLE/ASSET``; empty for a path, or for what is generated locally."""
    name, asset = split_reference(reference) or ("", "")
    if name not in EXAMPLES or asset not in EXAMPLES[name].assets:
        return ()
    files = set(_files(name, EXAMPLES[name].assets[asset][0]))
    return tuple(package for package in PACKAGES.values() if package.file in files)


def _files(example: str, stage: str) -> Iterator[str]:
    for earlier, read in EXAMPLES[example].stages[stage].inputs.items():
        yield from read if earlier == "packages" else ()
        yield from _files(example, earlier)


def _inputs(dossier: Dossier) -> dict[str, str]:
    """Name → digest of what the evaluation of the policy read."""
    steps = dossier.commit.content.get("steps", {})
    return {name: digest for name, digest in steps.get("evaluate", {}).get("inputs", {}).items() if digest}


def _held_out(dossier: Dossier) -> str | None:
    return dossier.chain[BASE + 1].outputs.get("tables/prompts.parquet")
