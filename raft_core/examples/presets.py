"""The worlds as literal tables, and the three questions that others ask about them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft_core.errors import ConfigError, PartsError
from raft_core.examples.cache import build_once, read_receipt, stage_folder, stage_key
from raft_core.examples.packages import PARTS
from raft_core.examples.stages import Progress, Receipt, Stage
from raft_core.references import PREFIX

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig


@dataclass(frozen=True, slots=True)
class World:
    """``stages`` in an order in which each follows its inputs; ``parts``: name → stage, path in its folder."""

    stages: Mapping[str, Stage]
    parts: Mapping[str, tuple[str, str]]


WORLDS: Mapping[str, World] = {
    "reviews": World(
        stages={
            "parts": Stage("raft_core.examples.fetch:build_parts", outputs=tuple(part.file for part in PARTS.values())),
            "data": Stage(
                "raft_core.examples.reviews_data:build_data",
                outputs=(
                    "prompts.train.jsonl",
                    "prompts.held_out.jsonl",
                    "prompts.promotion.jsonl",
                    "perplexity.txt",
                    "sft.jsonl",
                    "ratings.reward.jsonl",
                    "ratings.held_out.jsonl",
                    "ratings.gold.jsonl",
                ),
                inputs={"parts": (PARTS["ratings"].file,)},
            ),
            "pretrained": Stage(
                "raft_core.examples.smollm:build_pretrained",
                outputs=("pretrained",),
                inputs={"parts": (PARTS["smollm2"].file,)},
            ),
            "policy": Stage(
                "raft_core.examples.reviews_policy:build_policy",
                outputs=("policy",),
                inputs={"data": ("sft.jsonl", "perplexity.txt"), "pretrained": ("pretrained",)},
            ),
            "reward": Stage(
                "raft_core.examples.reviews_rewards:build_rewards",
                outputs=("reward", "gold", "metrics.json"),
                inputs={
                    "parts": (PARTS["minilm"].file,),
                    "data": ("ratings.reward.jsonl", "ratings.held_out.jsonl", "ratings.gold.jsonl"),
                },
            ),
        },
        parts={
            "policy": ("policy", "policy"),
            "pretrained": ("pretrained", "pretrained"),
            "reward": ("reward", "reward"),
            "gold": ("reward", "gold"),
            "prompts.train": ("data", "prompts.train.jsonl"),
            "prompts.held_out": ("data", "prompts.held_out.jsonl"),
            "prompts.promotion": ("data", "prompts.promotion.jsonl"),
            "perplexity": ("data", "perplexity.txt"),
        },
    ),
    "tiny": World(
        stages={
            "data": Stage(
                "raft_core.examples.tiny:build_data",
                outputs=(
                    "prompts.train.jsonl",
                    "prompts.held_out.jsonl",
                    "prompts.promotion.jsonl",
                    "perplexity.txt",
                    "lexicon.tsv",
                    "lexicon.careless.tsv",
                ),
            ),
            "policy": Stage("raft_core.examples.tiny_policy:build_policy", outputs=("policy",)),
        },
        parts={
            "policy": ("policy", "policy"),
            "prompts.train": ("data", "prompts.train.jsonl"),
            "prompts.held_out": ("data", "prompts.held_out.jsonl"),
            "prompts.promotion": ("data", "prompts.promotion.jsonl"),
            "perplexity": ("data", "perplexity.txt"),
            "lexicon": ("data", "lexicon.tsv"),
            "reward": ("data", "lexicon.tsv"),
            "lexicon.careless": ("data", "lexicon.careless.tsv"),
        },
    ),
}


def resolve(reference: str) -> Path:
    """The path behind ``embedded:WORLD/PART``; any other string is a path and returned as it is.

    Prepares nothing. Raises PartsError for a part that is not prepared, ConfigError for one that
    does not exist.
    """
    if not reference.startswith(PREFIX):
        return Path(reference)
    name, _, part = reference.removeprefix(PREFIX).partition("/")
    world = _world(name)
    if part not in world.parts:
        raise ConfigError(
            f"world {name} has no part {part!r}",
            got=reference,
            expected=f"one of {', '.join(world.parts)}",
            do=f"write {PREFIX}{name}/{next(iter(world.parts))}, or a path",
        )
    stage, relative = world.parts[part]
    receipts: dict[str, Receipt] = {}
    for needed in _with_inputs(world, [stage]):
        folder = stage_folder(name, needed, stage_key(world.stages[needed], receipts))
        receipt = read_receipt(folder)
        if receipt is None:
            raise PartsError(f"{reference} is not prepared", expected=folder, do=f"raft prepare {name}")
        receipts[needed] = receipt
    return stage_folder(name, stage, receipts[stage].key) / relative


def worlds_of(config: "RaftConfig") -> list[str]:
    """The worlds that a configuration refers to, sorted."""
    references = (text for text in _strings(config.model_dump()) if text.startswith(PREFIX))
    return sorted({reference.removeprefix(PREFIX).partition("/")[0] for reference in references})


def prepare(
    world: str, *, stages: Sequence[str] | None = None, progress: Progress = lambda line: None
) -> dict[str, Receipt]:
    """Prepare ``stages`` of a world (none: all) and what they need; what is there already is left alone.

    Safe to call from several processes at once, and after a kill at any point.

    Raises PartsError when something cannot be fetched or written, ConfigError for unknown names.
    """
    table = _world(world)
    if unknown := [name for name in stages or () if name not in table.stages]:
        raise ConfigError(f"world {world} has no stage {unknown[0]!r}", expected=f"one of {', '.join(table.stages)}")
    receipts: dict[str, Receipt] = {}
    for name in _with_inputs(table, list(table.stages) if stages is None else stages):
        receipts[name] = build_once(world, name, table.stages[name], receipts, progress)
    return receipts


def _world(name: str) -> World:
    if name not in WORLDS:
        raise ConfigError(
            f"no embedded world is called {name!r}",
            expected=f"one of {', '.join(WORLDS)}",
            do="write embedded:tiny/policy, or a path",
        )
    return WORLDS[name]


def _with_inputs(world: World, stages: Sequence[str]) -> list[str]:
    """``stages`` and all that they need, in the order of the table."""
    needed: set[str] = set()
    waiting = list(stages)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += world.stages[name].inputs
    return [name for name in world.stages if name in needed]


def _strings(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, Mapping):
        for value in plain.values():
            yield from _strings(value)
    elif isinstance(plain, Sequence):
        for value in plain:
            yield from _strings(value)


def dead_folders() -> list[Path]:
    """Prepared stages that no world would use any more: made by other code, or from other inputs.

    A stage whose own inputs are not prepared cannot be judged, so it stays.
    """
    dead: list[Path] = []
    for name, world in WORLDS.items():
        receipts: dict[str, Receipt] = {}
        for stage, table in world.stages.items():
            if not table.inputs.keys() <= receipts.keys():
                continue
            current = stage_folder(name, stage, stage_key(table, receipts))
            if (receipt := read_receipt(current)) is not None:
                receipts[stage] = receipt
                dead += [f for f in sorted(current.parent.glob(f"{stage}-????????????")) if f != current]
    return dead
