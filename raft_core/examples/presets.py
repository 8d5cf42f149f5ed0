"""The examples as literal tables; resolving and preparing their assets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft_core.errors import ConfigError, ExampleError
from raft_core.examples.cache import build_once, read_receipt, stage_folder, stage_key
from raft_core.examples.packages import PACKAGES
from raft_core.examples.stages import Progress, Receipt, Stage
from raft_core.references import PREFIX, split_reference

if TYPE_CHECKING:
    from raft_core.config.run import RaftConfig


@dataclass(frozen=True, slots=True)
class Example:
    """``stages``: each after its inputs; ``assets``: name → stage, path in its folder."""

    stages: Mapping[str, Stage]
    assets: Mapping[str, tuple[str, str]]


EXAMPLES: Mapping[str, Example] = {
    "reviews": Example(
        stages={
            "packages": Stage(
                "raft_core.examples.fetch:build_packages", outputs=tuple(package.file for package in PACKAGES.values())
            ),
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
                inputs={"packages": (PACKAGES["ratings"].file,)},
            ),
            "pretrained": Stage(
                "raft_core.examples.smollm:build_pretrained",
                outputs=("pretrained",),
                inputs={"packages": (PACKAGES["smollm2"].file,)},
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
                    "packages": (PACKAGES["minilm"].file,),
                    "data": ("ratings.reward.jsonl", "ratings.held_out.jsonl", "ratings.gold.jsonl"),
                },
            ),
        },
        assets={
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
    "tiny": Example(
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
        assets={
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
    """The path of ``example:EXAMPLE/ASSET``; any other string is returned as a path.

    Prepares nothing. Raises ExampleError for an asset that is not prepared, ConfigError for one that
    does not exist.
    """
    if (named := split_reference(reference)) is None:
        return Path(reference)
    name, asset = named
    example = _example(name)
    if asset not in example.assets:
        raise ConfigError(
            f"the example {name} has no asset {asset!r}",
            got=reference,
            expected=f"one of {', '.join(example.assets)}",
            hint=f"write {PREFIX}{name}/ASSET with one of these, or the path of a file or folder",
        )
    stage, relative = example.assets[asset]
    receipts: dict[str, Receipt] = {}
    for needed in _with_inputs(example, [stage]):
        folder = stage_folder(name, needed, stage_key(example.stages[needed], receipts))
        receipt = read_receipt(folder)
        if receipt is None:
            raise ExampleError(
                f"{reference} is not prepared yet", expected=f"the folder {folder}", hint=f"raft prepare {name}"
            )
        receipts[needed] = receipt
    return stage_folder(name, stage, receipts[stage].key) / relative


def examples_of(config: "RaftConfig") -> list[str]:
    """The examples that a configuration refers to, sorted."""
    named = map(split_reference, _strings(config.model_dump()))
    return sorted({reference[0] for reference in named if reference is not None})


def prepare(
    example: str, *, stages: Sequence[str] | None = None, progress: Progress = lambda line: None
) -> dict[str, Receipt]:
    """Prepare ``stages`` of an example (None: all) and what they need; stages that are prepared already are kept.

    Safe to call from several processes at once, and after a kill at any point.

    Raises ExampleError if something cannot be downloaded or written, ConfigError for unknown names.
    """
    table = _example(example)
    if unknown := [name for name in stages or () if name not in table.stages]:
        raise ConfigError(
            f"the example {example} has no stage {unknown[0]!r}",
            expected=f"one of {', '.join(table.stages)}",
            hint="correct the name of the stage, or leave it out to prepare all stages",
        )
    receipts: dict[str, Receipt] = {}
    for name in _with_inputs(table, list(table.stages) if stages is None else stages):
        receipts[name] = build_once(example, name, table.stages[name], receipts, progress)
    return receipts


def _example(name: str) -> Example:
    if name not in EXAMPLES:
        raise ConfigError(
            f"there is no example {name!r}",
            expected=f"one of {', '.join(EXAMPLES)}",
            hint="correct the name of the example, or use the path of your own file or folder",
        )
    return EXAMPLES[name]


def _with_inputs(example: Example, stages: Sequence[str]) -> list[str]:
    """``stages`` and all that they need, in the order of the table."""
    needed: set[str] = set()
    waiting = list(stages)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += example.stages[name].inputs
    return [name for name in example.stages if name in needed]


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
    """Folders of prepared stages that no example uses now: built by other code, or from other inputs.

    The folder of a stage whose inputs are not prepared is not listed, since its current key is unknown.
    """
    dead: list[Path] = []
    for name, example in EXAMPLES.items():
        receipts: dict[str, Receipt] = {}
        for stage, table in example.stages.items():
            if not table.inputs.keys() <= receipts.keys():
                continue
            current = stage_folder(name, stage, stage_key(table, receipts))
            if (receipt := read_receipt(current)) is not None:
                receipts[stage] = receipt
                dead += [f for f in sorted(current.parent.glob(f"{stage}-????????????")) if f != current]
    return dead
