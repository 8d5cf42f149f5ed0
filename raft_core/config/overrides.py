"""Overrides on the command line: KEY=VALUE, where KEY is a full path or the end of one if that is unique."""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from raft_core.errors import ConfigError

EXAMPLE = "sampling.top_p=0.9"
SHOWN = 8
"""Number of keys that an error lists."""

Say = Callable[[str], None]


def full_overrides(overrides: Sequence[str], model: type[BaseModel], say: Say) -> list[str]:
    """``overrides`` with full paths: ``samples_per_prompt=8`` becomes ``sampling.samples_per_prompt=8``, and ``say``
    is called with a line that says so.

    Raises ConfigError for text that is not KEY=VALUE and for a key that is ambiguous. An unknown key is kept: the
    check of the whole configuration reports it together with all other errors.
    """
    paths = key_paths(model)
    return [_full(text, paths, say) for text in overrides]


def key_paths(model: type[BaseModel]) -> list[str]:
    """The path of every key below ``model``: ``sampling.top_p``; ``scoring.rewards[0].weight`` for items of lists."""
    return list(dict.fromkeys(_paths(model, "", ())))


def nearest_key(path: str, model: type[BaseModel]) -> str | None:
    """The existing path that ``path`` probably means; None if nothing is similar.

    A key of exactly this name elsewhere is preferred, then the most similar path, then the most similar last part.
    """
    wanted = re.sub(r"\[\d+\]|\.\d+(?=\.|$)", "[0]", path)
    paths = key_paths(model)
    last = wanted.rpartition(".")[2]
    if same := [known for known in paths if known.rpartition(".")[2] == last]:
        return same[0] if len(same) == 1 else _nearest(wanted, same) or same[0]
    if near := _nearest(wanted, paths, cutoff=0.85):
        return near
    ends = {known.rpartition(".")[2] for known in paths}
    if not (end := _nearest(last, sorted(ends), cutoff=0.7)):
        return None
    alike = [known for known in paths if known.rpartition(".")[2] == end]
    return _nearest(wanted, alike) or alike[0]


def _nearest(text: str, known: Sequence[str], cutoff: float = 0.0) -> str | None:
    return next(iter(difflib.get_close_matches(text, known, n=1, cutoff=cutoff)), None)


def _full(text: str, paths: Sequence[str], say: Say) -> str:
    key, equals, value = text.partition("=")
    if key.startswith("-"):
        raise ConfigError(
            f"unknown option: {key}",
            got=text,
            expected="an option of this command (see --help), or a configuration key as KEY=VALUE without dashes",
            hint=f"write {key.lstrip('-').replace('-', '_')}={value or 'VALUE'} to set a configuration key",
        )
    if not equals or not re.fullmatch(r"\S+", key):
        raise ConfigError(f"not an override: {text}", expected="KEY=VALUE", hint=f"write it like {EXAMPLE}")
    bare = re.sub(r"\[\d+\]", "[0]", key)
    if bare in paths or bare.partition(".")[0].partition("[")[0] in paths:
        return text
    meant = [path for path in paths if path.endswith(f".{bare}")]
    if len(meant) > 1 or (meant and "[0]" in meant[0].removesuffix(bare)):
        shown = ", ".join(meant[:SHOWN]) + (", …" if len(meant) > SHOWN else "")
        raise ConfigError(
            f"{key} is ambiguous: {len(meant)} keys end with it"
            if len(meant) > 1
            else f"{key} is a key of the items of a list, so its full path is needed",
            got=text,
            expected=f"the full path: {shown}",
            hint=f"write {meant[0]}={value}" + (", or the path that you mean" if len(meant) > 1 else ""),
        )
    if not meant:
        return text
    whole = meant[0].removesuffix(bare) + text
    say(f"{text} is taken as {whole}")
    return whole


def _paths(model: type[BaseModel], prefix: str, above: tuple[type, ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path
        for inner, in_list in _models(field.annotation, in_list=False):
            if inner not in above:
                yield from _paths(inner, f"{path}[0]." if in_list else f"{path}.", (*above, model))


def _models(annotation: Any, *, in_list: bool) -> Iterator[tuple[type[BaseModel], bool]]:
    """The models that ``annotation`` can hold, each with whether it is inside a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, in_list
    inside = in_list or getattr(annotation, "__origin__", None) in (tuple, list)
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner, in_list=inside)
