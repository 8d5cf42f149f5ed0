"""Prompts: read from a file, split into train, held-out and promotion, and drawn for each iteration.

Every choice is made by a hash of the seed and the prompt's id, so it is the same on every machine and
with every library version, and does not depend on the order of the file.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_core.config.prompts import PromptsConfig
from raft_core.errors import InputError
from raft_core.prompts.files import excerpt, read_rows, refuse_conversation
from raft_core.types import Prompt

SHOWN = 5
"""Number of repeated prompts that an error quotes; all of them are counted."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Three disjoint sets of prompts, each in the order of its file.

    ``train`` is drawn from, ``held_out`` is what every iteration is evaluated on, ``promotion`` is
    read by promotion alone (empty unless a file or a share is set apart for it).
    """

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    promotion: tuple[Prompt, ...] = ()


def load_prompts(path: Path, text_column: str = "text") -> list[Prompt]:
    """The prompts of a file, read by ``raft_core.prompts.files`` in the format of its suffix.

    The file is streamed; only the prompts are kept in memory. Raises InputError naming file and line for a missing or
    empty file, an unknown suffix, bytes that are not UTF-8, lines that do not parse, a missing text column, a value
    that is not a string, an empty text, or the same text twice.
    """
    prompts: list[Prompt] = []
    lines: dict[str, int] = {}
    repeated, shown = 0, list[str]()
    try:
        for line, row in read_rows(path, text_column):
            prompt = _prompt(row, text_column, f"{path}, line {line}")
            if (first := lines.setdefault(prompt.text, line)) != line:
                repeated += 1
                if len(shown) < SHOWN:
                    shown.append(f"lines {first} and {line} are the same prompt {excerpt(prompt.text)}")
                continue
            prompts.append(prompt)
    except OSError as error:
        raise InputError(
            f"prompts file cannot be read: {path}", got=error, hint="check the file and its permissions"
        ) from error
    if repeated:
        raise InputError(
            f"{path}: {repeated} lines repeat the prompt of an earlier line",
            got="; ".join(shown) + (f"; and {repeated - len(shown)} more" if repeated > len(shown) else ""),
            expected="each prompt once: its completions are ranked as one group",
            hint="remove the repeated lines",
        )
    if not prompts:
        raise InputError(f"{path} contains no prompts", got="an empty file", hint="write one prompt per line")
    return prompts


def split_prompts(config: PromptsConfig, seed: int, resolve: Callable[[str], Path]) -> Splits:
    """Read ``config.train`` (and ``config.held_out``, ``config.promotion``) and set the splits apart.

    ``resolve`` turns a reference into a path. Without a held-out file, ``held_out_share`` of the
    training prompts is held out; without a promotion file, ``promotion_share`` is taken from them.
    Of the held-out prompts at most ``max_held_out`` are used; the others are not trained on either.

    Raises InputError if a split would be empty, or if two splits share a prompt.
    """
    prompts = load_prompts(resolve(config.train), config.text_column)
    order = _shuffled(prompts, f"split/{seed}")
    held_out: list[Prompt] = []
    if config.held_out is not None:
        held_out = load_prompts(resolve(config.held_out), config.text_column)
        _refuse_overlap(("training", prompts), ("held-out", held_out), config.train, config.held_out)
    else:
        order, held_out = _set_apart(order, config.held_out_share, len(prompts))
    if config.promotion is None:
        order, promotion = _set_apart(order, config.promotion_share, len(prompts))
    else:
        promotion = load_prompts(resolve(config.promotion), config.text_column)
        _refuse_overlap(("training", prompts), ("promotion", promotion), config.train, config.promotion)
        _refuse_overlap(("held-out", held_out), ("promotion", promotion), str(config.held_out), config.promotion)
    if not order:
        raise InputError(
            f"no training prompts are left in {config.train} after setting prompts apart",
            got=f"{len(prompts)} prompts, of which {len(held_out) if config.held_out is None else 0} are held out "
            f"and {len(promotion) if config.promotion is None else 0} are for promotion",
            expected="at least 1 prompt to train on",
            hint="add prompts, or lower prompts.held_out_share and prompts.promotion_share",
        )
    chosen = {p.prompt_id for p in _shuffled(held_out, f"held_out/{seed}")[: config.max_held_out]}
    train, apart = ({p.prompt_id for p in part} for part in (order, promotion))
    return Splits(
        train=tuple(p for p in prompts if p.prompt_id in train),
        held_out=tuple(p for p in held_out if p.prompt_id in chosen),
        promotion=tuple(p for p in (prompts if config.promotion is None else promotion) if p.prompt_id in apart),
    )


def draw(prompts: Sequence[Prompt], count: int, *, seed: int, iteration: int) -> list[Prompt]:
    """The ``count`` training prompts of an iteration (0, 1, …): b of Algorithm 1.

    The pool is shuffled once by ``seed`` and read in a circle, ``count`` prompts per iteration: no prompt occurs
    twice in one draw, and none is drawn again before every other one was drawn.

    Raises InputError if the pool is smaller than one draw.
    """
    if count > len(prompts):
        raise InputError(
            "there are fewer training prompts than one iteration draws",
            got=f"{len(prompts)} training prompts",
            expected=f"at least {count} (sampling.prompts_per_iteration)",
            hint=f"set sampling.prompts_per_iteration={len(prompts)} or less, or add prompts",
        )
    order = _shuffled(prompts, f"draw/{seed}")
    start = iteration * count
    return [order[(start + i) % len(order)] for i in range(count)]


# -- choosing ----------------------------------------------------------------------------------


def _shuffled(prompts: Sequence[Prompt], salt: str) -> list[Prompt]:
    return sorted(prompts, key=lambda p: hashlib.sha256(f"{salt}/{p.prompt_id}".encode()).digest())


def _set_apart(order: list[Prompt], share: float, total: int) -> tuple[list[Prompt], list[Prompt]]:
    """The rest, and the first ``share`` of ``total`` (rounded, at least one if the share is above 0)."""
    count = max(1, round(share * total)) if share > 0 else 0
    return order[count:], order[:count]


def _refuse_overlap(
    old: tuple[str, Sequence[Prompt]], new: tuple[str, Sequence[Prompt]], old_file: str, new_file: str
) -> None:
    """``old`` and ``new``: name of the split and its prompts."""
    texts = {p.text for p in old[1]}
    if shared := [p.text for p in new[1] if p.text in texts]:
        raise InputError(
            f"{len(shared)} of {len(new[1])} {new[0]} prompts in {new_file} are also {old[0]} prompts",
            got=", ".join(excerpt(text) for text in shared[:SHOWN])
            + (f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""),
            expected="each prompt in only one of the sets: a policy must not be measured on what it was trained on",
            hint=f"remove them from {old_file}, or remove prompts.{new[0].replace('-', '_')} to set a share of the "
            "training prompts apart instead",
        )


def _prompt(row: dict[str, Any], text_column: str, where: str) -> Prompt:
    text = row[text_column]
    optional: dict[str, Any] = {
        name: row[name] for name in ("group", "source", "reference") if row.get(name) is not None
    }
    refuse_conversation(text, text_column, where)
    for name, value in ((text_column, text), *optional.items()):
        if not isinstance(value, str):
            raise InputError(
                f"{where}: {name} is not a text", got=excerpt(value), expected="a string", hint="put it into quotes"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{where}: {name} contains a character that is not valid Unicode",
                got=error,
                expected="text that can be written as UTF-8",
                hint="remove the lone surrogate (\\ud800 to \\udfff)",
            ) from None
    if not text.strip():
        raise InputError(
            f"{where}: the prompt is empty", got=excerpt(text), hint="remove this line, or write a prompt in it"
        )
    return Prompt.of(text, **optional)
