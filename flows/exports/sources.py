"""What a configuration names: models, prompts, rewards; where each comes from, and which licence is known of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from flows.exports.dossier import Dossier
from raft_core.examples.packages import PARTS, Part
from raft_core.examples.presets import WORLDS
from raft_core.records.run import BASE
from raft_core.references import PREFIX
from raft_core.rewards.base import reward_name
from raft_core.rewards.lexicon import VADER
from raft_core.selection.base import SELECTION

MADE_IN_PLACE = "made in place by this project, from nothing else"
UNKNOWN = "not recorded"


@dataclass(frozen=True, slots=True)
class Named:
    """One thing that the configuration names. ``digest``: sha256 where the commits hold it."""

    role: str
    reference: str
    digest: str | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The fetched parts that an embedded reference is made from."""
        return parts_of(self.reference)

    @property
    def licence(self) -> str:
        """What is known of its licence, in one line."""
        if self.reference == VADER:
            return f"{PARTS['ratings'].package}: MIT"
        if not self.reference.startswith(PREFIX):
            return UNKNOWN
        return "; ".join(f"{p.package} {p.version}: {p.licence}" for p in self.parts) or MADE_IN_PLACE


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


def parts_of(reference: str) -> tuple[Part, ...]:
    """The fetched parts behind ``embedded:WORLD/PART``; none for a path, or for what is made in place."""
    world = WORLDS.get(reference.removeprefix(PREFIX).partition("/")[0])
    part = reference.partition("/")[2]
    if not reference.startswith(PREFIX) or world is None or part not in world.parts:
        return ()
    files = set(_files(reference.removeprefix(PREFIX).partition("/")[0], world.parts[part][0]))
    return tuple(part for part in PARTS.values() if part.file in files)


def _files(world: str, stage: str) -> Iterator[str]:
    for earlier, read in WORLDS[world].stages[stage].inputs.items():
        yield from read if earlier == "parts" else ()
        yield from _files(world, earlier)


def _inputs(dossier: Dossier) -> dict[str, str]:
    """Name → digest of what the evaluation of the policy read."""
    steps = dossier.commit.content.get("steps", {})
    return {name: digest for name, digest in steps.get("evaluate", {}).get("inputs", {}).items() if digest}


def _held_out(dossier: Dossier) -> str | None:
    return dossier.chain[BASE + 1].outputs.get("tables/prompts.parquet")
