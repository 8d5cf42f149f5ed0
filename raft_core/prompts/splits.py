"""Prompts: read from a file, split into train, held-out and promotion, and drawn for each iteration.

Every choice goes by a hash of the seed and the prompt's id, so it is the same on every machine and
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
"""Repeated prompts that an error quotes; it counts them all."""


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
    """The prompts of a file, as ``prompt_files`` reads it by its suffix. The file is streamed; only the prompts stay.

    Raises InputError naming file and line: a missing or empty file, another suffix, no UTF-8, what does not parse,
    no text column, a value that is not a text, an empty text, or the same text twice.
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
                    shown.append(f"lines {first} and {line} hold the same prompt {excerpt(prompt.text)}")
                continue
            prompts.append(prompt)
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error, hint="check the file and its permissions") from error
    if repeated:
        raise InputError(
            f"{path}: {repeated} lines repeat the prompt of an earlier line",
            got="; ".join(shown) + (f"; and {repeated - len(shown)} more" if repeated > len(shown) else ""),
            hint="remove the repeated lines; a prompt's candidates are ranked as one group",
        )
    if not prompts:
        raise InputError(f"{path} holds no prompts", hint="write one prompt a line")
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
            f"no training prompts are left of {config.train}",
            got=f"{len(prompts)} prompts, of which {len(held_out) if config.held_out is None else 0} held out "
            f"and {len(promotion) if config.promotion is None else 0} for promotion",
            hint="give more prompts, or smaller prompts.held_out_share and prompts.promotion_share",
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

    The pool is shuffled once by ``seed`` and read in a circle, ``count`` an iteration: no prompt
    comes twice in one draw, and none comes again before every other one was drawn.

    Raises InputError if the pool is smaller than one draw.
    """
    if count > len(prompts):
        raise InputError(
            "fewer training prompts than an iteration draws",
            got=len(prompts),
            expected=f"at least {count}",
            hint="lower sampling.prompts_per_iteration, or give more prompts",
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
            f"{len(shared)} of {len(new[1])} {new[0]} prompts of {new_file} are {old[0]} prompts",
            got=", ".join(excerpt(text) for text in shared[:SHOWN])
            + (f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""),
            expected="prompts that are in one split alone",
            hint=f"remove them from {old_file}, or leave the file of {new[0]} prompts out to set a share apart",
        )


def _prompt(row: dict[str, Any], text_column: str, where: str) -> Prompt:
    text = row[text_column]
    optional: dict[str, Any] = {
        name: row[name] for name in ("group", "source", "reference") if row.get(name) is not None
    }
    refuse_conversation(text, text_column, where)
    for name, value in ((text_column, text), *optional.items()):
        if not isinstance(value, str):
            raise InputError(f"{where}: {name} is no text", got=excerpt(value), hint="write it as a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: {name} is no UTF-8 text", got=error, hint="remove the lone surrogate") from None
    if not text.strip():
        raise InputError(f"{where}: the prompt is empty", got=excerpt(text), hint="remove the line, or write a prompt")
    return Prompt.of(text, **optional)
