"""What a configuration names: models, prompts, rewards; where each comes from, and which licence is known of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from flows.exports.dossier import Dossier
from raft_core.examples.packages import PACKAGES, Package
from raft_core.examples.presets import EXAMPLES
from raft_core.records.run import BASE
from raft_core.references import split_reference
from raft_core.rewards.base import reward_name
from raft_core.rewards.lexicon import VADER
from raft_core.selection.registry import SELECTION

MADE_IN_PLACE = "made in place by this project, from nothing else"
UNKNOWN = "not recorded"


@dataclass(frozen=True, slots=True)
class Named:
    """One thing that the configuration names. ``digest``: sha256 where the commits hold it."""

    role: str
    reference: str
    digest: str | None = None

    @property
    def packages(self) -> tuple[Package, ...]:
        """The fetched packages that a reference to an example is made from."""
        return packages_of(self.reference)

    @property
    def licence(self) -> str:
        """What is known of its licence, in one line."""
        if self.reference == VADER:
            return f"{PACKAGES['ratings'].name}: MIT"
        if split_reference(self.reference) is None:
            return UNKNOWN
        return "; ".join(f"{p.name} {p.version}: {p.licence}" for p in self.packages) or MADE_IN_PLACE


def named(dossier: Dossier) -> list[Named]:
    """Every model, file and function that the run was made with."""
    config = dossier.run.config
    inputs = _inputs(dossier)
    rows = [
        Named("initial policy", config.policy.model, dossier.base.policy.digest),
        Named("training prompts", config.prompts.train),
        Named("held-out prompts", config.prompts.held_out or f"a share of {config.prompts.train}", _held_out(dossier)),
    ]
    if config.evaluation.perplexity_text:
        rows.append(Named("text for perplexity", config.evaluation.perplexity_text, inputs.get("texts")))
    for role, rewards in (("reward", config.scoring.rewards), ("gold reward", config.scoring.gold)):
        for reward in rewards:
            name = reward_name(reward)
            rows.append(Named(f"{role} {name}", reward.reference, inputs.get(f"reward {name}")))
    return [*rows, *_selector(dossier)]


def _selector(dossier: Dossier) -> Iterator[Named]:
    """The code that selected, where a package other than RAFT brought it: as the run pinned it."""
    for name, sources in dossier.commit.content.get("rewards", {}).items():
        if name.startswith(SELECTION):
            yield from (Named(name, reference, digest) for reference, digest in sources.items())


def packages_of(reference: str) -> tuple[Package, ...]:
    """The fetched packages behind ``example:EXAMPLE/ASSET``; none for a path, or for what is made in place."""
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
