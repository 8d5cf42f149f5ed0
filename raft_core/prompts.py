"""Prompts: read from a file, split into train, held-out and promotion, and drawn for each iteration.

Every choice goes by a hash of the seed and the prompt's id, so it is the same on every machine and
with every library version, and does not depend on the order of the file.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_core.config import PromptsConfig
from raft_core.errors import InputError
from raft_core.parquet_trial import fault_of
from raft_core.types import Prompt

MAX_LINE_BYTES = 1 << 24
"""A longer line is no prompt; it is refused before it fills the memory."""


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
    """The prompts of a file, by its suffix: ``.txt`` one a line, ``.jsonl``/``.ndjson``, ``.parquet``.

    JSON lines and Parquet hold the text in ``text_column`` and may hold ``group``, ``source`` and
    ``reference`` (text or null). Lines are counted from 1, as in an editor; Parquet rows as well.
    The file is streamed; only the prompts stay in memory.

    Raises InputError naming file and line: a missing or empty file, another suffix, no UTF-8, JSON that
    does not parse, no text column, a value that is no text, an empty text, or the same text twice.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"cannot read prompts from {path}", got=f"suffix {path.suffix!r}", expected=" ".join(_READERS),
            do="rename it, or convert it to JSON lines",
        )  # fmt: skip
    if not path.is_file():
        raise InputError(
            f"{path} is no file" if path.exists() else f"missing prompts file: {path}",
            do="correct prompts.train, prompts.held_out or prompts.promotion",
        )
    prompts: list[Prompt] = []
    lines: dict[str, int] = {}
    try:
        for line, row in read(path, text_column):
            prompt = _prompt(row, text_column, f"{path}, line {line}")
            if (first := lines.setdefault(prompt.text, line)) != line:
                raise InputError(
                    f"{path}: lines {first} and {line} hold the same prompt", got=_excerpt(prompt.text),
                    do="remove one; a prompt's candidates are ranked as one group",
                )  # fmt: skip
            prompts.append(prompt)
    except OSError as error:
        raise InputError(f"cannot read {path}", got=error, do="check the file and its permissions") from error
    if not prompts:
        raise InputError(f"{path} holds no prompts", do="write one prompt a line")
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
            do="give more prompts, or smaller prompts.held_out_share and prompts.promotion_share",
        )  # fmt: skip
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
            "fewer training prompts than an iteration draws", got=len(prompts), expected=f"at least {count}",
            do="lower sampling.prompts_per_iteration, or give more prompts",
        )  # fmt: skip
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
            got=", ".join(_excerpt(text) for text in shared[:3]) + (", …" if len(shared) > 3 else ""),
            expected="prompts that are in one split alone",
            do=f"remove them from {old_file}, or leave the file of {new[0]} prompts out to set a share apart",
        )


# -- reading -----------------------------------------------------------------------------------


def _prompt(row: dict[str, Any], text_column: str, where: str) -> Prompt:
    text = row[text_column]
    optional: dict[str, Any] = {
        name: row[name] for name in ("group", "source", "reference") if row.get(name) is not None
    }
    for name, value in ((text_column, text), *optional.items()):
        if not isinstance(value, str):
            raise InputError(f"{where}: {name} is no text", got=_excerpt(value), do="write it as a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: {name} is no UTF-8 text", got=error, do="remove the lone surrogate") from None
    if not text.strip():
        raise InputError(f"{where}: the prompt is empty", got=_excerpt(text), do="remove the line, or write a prompt")
    return Prompt.of(text, **optional)


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InputError(
                    f"{path}, line {number} is no prompt", got=f"more than {MAX_LINE_BYTES >> 20} MiB in one line",
                    do="write one prompt a line",
                )  # fmt: skip
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number} is no UTF-8", got=f"byte 0x{line[error.start]:02x} at {error.start}",
                    do="save the file as UTF-8",
                ) from None  # fmt: skip
            yield number, text.removesuffix("\n").removesuffix("\r")


def _read_text(path: Path, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in _text_lines(path):
        yield number, {text_column: text}


def _read_json_lines(path: Path, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in _text_lines(path):
        where = f"{path}, line {number}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where} is no JSON", got=error, expected="one object a line", do="correct it, or remove the line"
            ) from None
        if not isinstance(row, dict):
            raise InputError(f"{where} is no JSON object", got=_excerpt(row), expected=f'{{"{text_column}": "…"}}')
        if text_column not in row:
            _refuse_columns(where, text_column, list(row))
        yield number, row


def _read_parquet(path: Path, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    names = list(dict.fromkeys((text_column, "group", "source", "reference")))
    if fault := fault_of(path, names):
        raise InputError(f"{path} is no Parquet file of prompts", got=fault, do="write it again")
    try:
        columns = pq.read_schema(path).names
        if text_column not in columns:
            _refuse_columns(str(path), text_column, columns)
        wanted = [name for name in names if name in columns]
        # As dictionaries: a text that stands in a million rows is held once, and refused at its second row.
        with pq.ParquetFile(path, read_dictionary=wanted) as file:
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                for row in zip(*batch.columns, strict=True):
                    number += 1
                    yield number, {name: value.as_py() for name, value in zip(wanted, row, strict=True)}
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, row {number} is no UTF-8", got=error.reason, do="write the columns as UTF-8 strings"
        ) from None
    except pa.ArrowException as error:
        raise InputError(f"{path} is no Parquet file of prompts", got=error, do="write it again") from None


def _refuse_columns(where: str, text_column: str, columns: Sequence[str]) -> None:
    raise InputError(
        f"{where} has no column {text_column!r}", got=f"columns {', '.join(map(str, columns)) or '(none)'}",
        do="name the column in prompts.text_column",
    )  # fmt: skip


_READERS: dict[str, Callable[[Path, str], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".txt": _read_text, ".jsonl": _read_json_lines, ".ndjson": _read_json_lines, ".parquet": _read_parquet,
}  # fmt: skip
