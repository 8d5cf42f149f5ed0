"""A reward that is a plain Python function: ``module:function`` or ``path/to/file.py:function``.

Batched: ``f(prompts, completions)`` returns one number per sample; with ``batched: false``: ``f(prompt,
completion)`` returns one number. A parameter called ``references`` (with ``batched: false``: ``reference``)
receives each prompt's reference, or None if it has none.

A file is read and run again each time it is loaded, its local modules only when one of them changed, and exactly the
bytes that were hashed are run (``rewards.modules``). The identity covers the file, these modules, and ``files``.
Changes that the code makes to the process are undone after each call (``rewards.surroundings``).
"""

import difflib
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, field_validator

from raft_core.errors import ConfigError, InputError, RewardError
from raft_core.files.artifacts import file_digest, json_digest
from raft_core.rewards.base import RewardConfig, digest_of_named, reward_identity
from raft_core.rewards.children import served
from raft_core.rewards.modules import LocalModules, Source
from raft_core.rewards.returned import error_text
from raft_core.rewards.source import complete
from raft_core.rewards.surroundings import Surroundings
from raft_core.types import Prompt

_TRACEBACK_LINES = 4
_NAMED = r"^.+:[A-Za-z_]\w*$"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user's code runs: with its own modules and its own process state."""

    modules: LocalModules
    surroundings: Surroundings

    @contextmanager
    def entered(self, *, keep: bool = False) -> Iterator[None]:
        """Run the block there; with ``keep`` its changes to the process state apply again the next time."""
        with self.surroundings.entered(keep=keep), self.modules.imported(), served(self.modules):
            yield


class FunctionRewardConfig(RewardConfig):
    """A Python function of your own: it gets prompts and completions and returns one number for each; higher is better.

    With `{type: function, function: my_reward.py:score}` and a file my_reward.py that contains
    `def score(prompts, completions): return [float("thank" in text) for text in completions]` completions with "thank"
    are preferred. A parameter called `references` receives the prompts' reference answers. See `docs/rewards.md`.
    """

    type: Literal["function"] = "function"
    function: str = Field(
        pattern=_NAMED,
        description="file and function as `path/to/file.py:function`, or module and function as `module:function`",
    )
    batched: bool = Field(
        True,
        description="true: the function gets lists and returns a list; false: it gets one prompt and one completion, "
        "and returns a number",
    )
    files: tuple[str, ...] = Field(
        (),
        description="other files or folders that the function reads, such as word lists; if one of them changes, "
        "samples are scored again",
    )

    @field_validator("function", mode="before")
    @classmethod
    def _names_a_function(cls, value: object) -> object:
        if isinstance(value, str) and not re.match(_NAMED, value):
            raise ValueError(
                f"{value!r} does not name a function; write path/to/file.py:FUNCTION or package.module:FUNCTION"
            )
        return value

    def load(self, *, weights: bool = True) -> "FunctionReward":
        """See ``RewardConfig.load``."""
        return load(self)


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """A user's function. It gets references if it has that parameter; it needs them if the parameter has no default."""

    identity: str
    sources: Mapping[str, str]
    function: Callable[..., Any]
    batched: bool
    wants_references: bool
    needs_references: bool
    place: Place
    data: Mapping[Path, tuple[tuple[int, int, int], str]]
    """For each path in ``files``: its modification time, size and inode when it was hashed, and its digest."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Any:
        """Whatever the function returns; ``score`` checks it. The function may change the lists that it gets."""
        texts, references = [p.text for p in prompts], [p.reference for p in prompts]
        with self.place.entered():
            if self.batched:
                returned = self.function(texts, list(completions), **self._named(references))
                # a generator runs inside this block, and an endless one is cut off
                return list(islice(returned, len(completions) + 1)) if isinstance(returned, Iterator) else returned
            return [
                self.function(text, completion, **self._named(reference))
                for text, completion, reference in zip(texts, completions, references, strict=True)
            ]

    def verify(self) -> None:
        """Raise RewardError if a file that ``files`` names changed since the reward was loaded."""
        for path, (stamp, digest) in self.data.items():
            if _stamp(path) != stamp and not (path.is_file() and file_digest(path) == digest):
                raise RewardError(
                    f"a file of the reward changed while the reward was in use: {path}",
                    expected="the same content from the start of a step to its end",
                    hint="restore the file, then resume the run",
                )

    def _named(self, given: Any) -> Mapping[str, Any]:
        if not self.wants_references:
            return {}
        return {"references" if self.batched else "reference": given}


_LAST: dict[tuple[Path, str], Place] = {}
"""Folder and module → the place where it was last loaded. Modules whose bytes are unchanged keep their state in memory
(a model, a registration that is possible only once), as imported modules do."""


def load(config: FunctionRewardConfig) -> FunctionReward:
    """The function that ``config`` names. Raises InputError or ConfigError if it cannot be used."""
    where, _, name = config.function.rpartition(":")
    folder = Path.cwd()
    importlib.invalidate_caches()
    files = {file: digest_of_named(folder / file, "files") for file in config.files}
    data = {path: (_stamp(path), file_digest(path)) for file in config.files for path in _below(folder / file)}
    place = _place(
        folder, where, {str(path.resolve()): digest for path, (_, digest) in data.items() if path.suffix == ".py"}
    )
    with place.entered(keep=True):
        load_code = _load_file if where.endswith(".py") else _load_module
        module, main, others = load_code(where, place.modules)
        function = _function(module, name, where)
        asked = _check_signature(function, config)
    _LAST[folder, where] = place
    return FunctionReward(
        identity=reward_identity(config, "-".join([json_digest([main, others]), name, *sorted(files.values())])),
        sources={**others, **files, where: main},
        function=function,
        batched=config.batched,
        wants_references=asked is not None,
        needs_references=asked is not None and asked.default is asked.empty,
        place=place,
        data=data,
    )


def _place(folder: Path, where: str, named: Mapping[str, str]) -> Place:
    """A new place, with the modules of the last one if none of them changed."""
    place = Place(LocalModules(named), Surroundings(str(folder)))
    if (last := _LAST.get((folder, where))) is not None:
        with last.surroundings.entered():
            if last.modules.is_current():
                place.modules.keep(last.modules)
    return place


def _load_file(where: str, modules: LocalModules) -> tuple[ModuleType, str, dict[str, str]]:
    """The module, its digest, and those of all other local modules."""
    path = Path(where).absolute()
    try:
        if path.exists() and not path.is_file():  # reading a FIFO would block
            raise OSError(None, "not a file")
        source = Source(str(path), path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"the file of the reward cannot be read: {path}",
            got=getattr(error, "strerror", error),
            expected="a Python file; relative paths start at the current directory",
            hint="correct the path before the colon in `function` of the reward",
        ) from None
    name = f"raft_reward_{sha256(str(path).encode() + source.code).hexdigest()[:16]}"
    with _explained(str(path)):
        module = modules.add(name, source)
    others = complete(modules, source.code)
    return module, others.pop(name), others


def _load_module(where: str, modules: LocalModules) -> tuple[ModuleType, str, dict[str, str]]:
    """As ``_load_file``; for an installed module only its own file counts."""
    with _explained(where):
        module = importlib.import_module(where)
    others = complete(modules, also=where)
    installed = module.__spec__.origin if module.__spec__ is not None else None
    if where in others:
        return module, others[where], others
    return module, file_digest(Path(installed)) if installed and installed.endswith(".py") else where, others


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _below(path: Path) -> list[Path]:
    return [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]


class _explained:
    """Turn any error while a user's code is loaded into a ConfigError that shows where it happened."""

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
            f"the reward {where} has a syntax error",
            got=f"{error.msg}: {error.filename}, line {error.lineno}: {text}",
            hint=f"correct line {error.lineno}",
        )
    if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
        return ConfigError(
            f"the module of the reward is not found: {where}",
            got=error_text(error),
            expected="an installed module, or one in the current directory",
            hint="correct the part before the colon in `function`; write path/to/file.py:function for a file",
        )
    frames = [
        f"{frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((str(Path(__file__).parent), "<frozen importlib"))
    ]
    command = f"python {where}" if where.endswith(".py") else f'python -c "import {where}"'
    do = f"correct the code until `{command}` runs without an error"
    if isinstance(error, ModuleNotFoundError):
        do = (
            f"install {error.name}; if it is a file next to the reward's file, put both into a package and write "
            "package.module:function"
        )
    return ConfigError(
        f"the code of the reward {where} raises an error when it is loaded",
        got="\n    ".join([error_text(error), *frames[-_TRACEBACK_LINES:]]),
        hint=do,
    )


def _function(module: ModuleType, name: str, where: str) -> Callable[..., Any]:
    try:
        function = getattr(module, name)
    except AttributeError:
        there = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        near = difflib.get_close_matches(name, there, n=1)
        raise ConfigError(
            f"no function {name} in {where}",
            got=f"the functions {', '.join(there)}" if there else "a file without functions",
            expected=f"a function {name}",
            hint=f"write {where}:{near[0]}, if that is the function you mean"
            if near
            else "correct the name after the colon in `function` of the reward",
        ) from None
    if inspect.isclass(function) or inspect.iscoroutinefunction(function) or not callable(function):
        kind = (
            "an async function"
            if inspect.iscoroutinefunction(function)
            else f"a value of type {type(function).__name__}"
        )
        raise ConfigError(
            f"{where}:{name} is not a function that raft can call",
            got="a class" if inspect.isclass(function) else kind,
            expected="a plain function (def)",
            hint="write a plain function that calls it, and name that function",
        )
    return function  # type: ignore[no-any-return]


def _check_signature(function: Callable[..., Any], config: FunctionRewardConfig) -> inspect.Parameter | None:
    """The parameter for references, if any. Raises ConfigError if the function cannot be called as configured."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have no signature
        return None
    plural = "s" if config.batched else ""
    asked = signature.parameters.get(f"reference{plural}")
    other = "completion" if config.batched else "completions"
    try:
        signature.bind([], [], **({f"reference{plural}": []} if asked else {}))
        fits = other not in signature.parameters
    except TypeError:
        fits = False
    if not fits:
        contrary = str(not config.batched).lower()
        raise ConfigError(
            f"the function {config.function} does not have the parameters that raft passes",
            got=f"parameters {signature}",
            expected=f"(prompt{plural}, completion{plural}) or (prompt{plural}, completion{plural}, reference{plural})",
            hint=f"change its parameters, or set batched: {contrary} if it takes "
            + ("one sample at a time" if config.batched else "lists"),
        )
    return asked
