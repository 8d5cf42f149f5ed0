"""A reward that is a plain Python function: ``module:function`` or ``path/to/file.py:function``.

Batched: ``f(prompts, completions)`` returns one number a sample; one by one: ``f(prompt,
completion)`` returns one number. A parameter called ``references`` (one by one: ``reference``)
receives each prompt's reference, None where it has none.

A file is read anew each time it is loaded, and what is run is what was hashed. Its identity covers
the file, the local modules that it imports, and ``files``.
"""

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from raft_core.config.scoring import FunctionRewardConfig
from raft_core.errors import ConfigError, InputError
from raft_core.rewards.base import digest_of_named, reward_identity
from raft_core.rewards.returned import told
from raft_core.rewards.source import importable, module_digest, source_digest
from raft_core.types import Prompt

_TRACEBACK_LINES = 4


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """A user's function. ``wants_references``: it has a parameter of that name."""

    identity: str
    function: Callable[..., Any]
    batched: bool
    wants_references: bool
    folder: Path

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Any:
        """Whatever the function returns; ``score`` checks it. Lists are the function's own to change."""
        texts, references = [p.text for p in prompts], [p.reference for p in prompts]
        with importable(self.folder):
            if self.batched:
                return self.function(texts, list(completions), **self._named(references))
            return [
                self.function(text, completion, **self._named(reference))
                for text, completion, reference in zip(texts, completions, references, strict=True)
            ]

    def _named(self, given: Any) -> Mapping[str, Any]:
        if not self.wants_references:
            return {}
        return {"references" if self.batched else "reference": given}


def load(config: FunctionRewardConfig) -> FunctionReward:
    """The function that ``config`` names. Raises InputError or ConfigError saying why it cannot be used."""
    where, _, name = config.function.rpartition(":")
    folder = Path.cwd()
    importlib.invalidate_caches()
    with importable(folder):
        module, digest = _load_file(folder / where) if where.endswith(".py") else _load_module(where)
    function = _function(module, name, where)
    wants_references = _check_signature(function, config)
    others = sorted(digest_of_named(folder / file, "files") for file in config.files)
    return FunctionReward(
        identity=reward_identity(config, "-".join([digest, name, *others])),
        function=function, batched=config.batched, wants_references=wants_references, folder=folder,
    )  # fmt: skip


def _load_file(path: Path) -> tuple[ModuleType, str]:
    try:
        if path.exists() and not path.is_file():  # a FIFO would be waited for
            raise OSError(None, "not a file")
        source = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(
            f"reward file cannot be read: {path}", got=getattr(error, "strerror", error), expected="a Python file",
            do="correct the path before the colon in `function`; it is relative to the current folder",
        ) from None  # fmt: skip
    name = f"raft_reward_{sha256(str(path).encode() + source).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by name
    try:
        with _explained(str(path)):
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module, source_digest(source)


def _load_module(name: str) -> tuple[ModuleType, str]:
    with _explained(name):
        module = importlib.import_module(name)
    return module, module_digest(name)


class _explained:
    """Turn what goes wrong while a user's code is loaded into a ConfigError that shows where."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, KeyboardInterrupt | GeneratorExit):
            return
        raise _why(self.where, error) from error


def _why(where: str, error: BaseException) -> ConfigError:
    if isinstance(error, SyntaxError):
        text = (error.text or "").strip()
        return ConfigError(
            f"reward {where} has a syntax error", got=f"{error.msg}: {error.filename}, line {error.lineno}: {text}",
            do="correct that line",
        )  # fmt: skip
    if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
        return ConfigError(
            f"no module named {where}", got=told(error), expected="an installed module, or one in the current folder",
            do="correct the part before the colon in `function`; a file is written path/to/file.py:function",
        )  # fmt: skip
    frames = [
        f"{frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen importlib")
    ]
    do = "let it run without an error: python " + where if where.endswith(".py") else f'try: python -c "import {where}"'
    if isinstance(error, ModuleNotFoundError):
        do = f"install {error.name}; modules beside a file need a package: name package.module:function instead"
    return ConfigError(
        f"reward {where} fails while it is loaded",
        got="\n    ".join([told(error), *frames[-_TRACEBACK_LINES:]]), do=do,
    )  # fmt: skip


def _function(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    try:
        function = getattr(module, name)
    except AttributeError:
        there = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        near = difflib.get_close_matches(name, there, n=1)
        raise ConfigError(
            f"no function {name} in {where}", got=f"functions there: {', '.join(there) or 'none'}",
            do=f"did you mean {where}:{near[0]}?" if near else "name one of them after the colon in `function`",
        ) from None  # fmt: skip
    if inspect.isclass(function) or inspect.iscoroutinefunction(function) or not callable(function):
        kind = "an async function" if inspect.iscoroutinefunction(function) else f"a {type(function).__name__}"
        raise ConfigError(
            f"{where}:{name} cannot be called for rewards", got="a class" if inspect.isclass(function) else kind,
            expected="a function", do="write a plain function `def` around it",
        )  # fmt: skip
    return function  # type: ignore[no-any-return]


def _check_signature(function: Callable[..., Any], config: FunctionRewardConfig) -> bool:
    """Whether the function asks for references; raises ConfigError if it cannot be called as told."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C tell none
        return False
    plural = "s" if config.batched else ""
    wants = f"reference{plural}" in signature.parameters
    other = "completion" if config.batched else "completions"
    try:
        signature.bind([], [], **({f"reference{plural}": []} if wants else {}))
        fits = other not in signature.parameters
    except TypeError:
        fits = False
    if not fits:
        contrary = str(not config.batched).lower()
        raise ConfigError(
            f"{config.function} does not take what it is given", got=f"parameters {signature}",
            expected=f"(prompt{plural}, completion{plural}) or (prompt{plural}, completion{plural}, reference{plural})",
            do=f"change its parameters, or set batched: {contrary} if it takes "
            + ("one sample at a time" if config.batched else "lists"),
        )  # fmt: skip
    return wants
