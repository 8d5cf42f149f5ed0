"""A reward that is a plain Python function: ``module:function`` or ``path/to/file.py:function``.

Batched: ``f(prompts, completions)`` returns one number a sample; one by one: ``f(prompt,
completion)`` returns one number. A parameter called ``references`` (one by one: ``reference``)
receives each prompt's reference, None where it has none.

A file is read and run anew each time it is loaded, its local modules when one of them changed, and what is run is
what was hashed (``rewards.modules``). The identity covers the file, these modules, and ``files``. What the code does to
the process does not outlast it (``rewards.surroundings``).
"""

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

from raft_core.errors import ConfigError, InputError, RewardError
from raft_core.files.artifacts import file_digest, json_digest
from raft_core.rewards.base import RewardConfig, digest_of_named, reward_identity
from raft_core.rewards.children import served
from raft_core.rewards.modules import LocalModules, Source
from raft_core.rewards.returned import told
from raft_core.rewards.source import complete
from raft_core.rewards.surroundings import Surroundings
from raft_core.types import Prompt

_TRACEBACK_LINES = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user's code runs: among its own modules, in its own surroundings."""

    modules: LocalModules
    surroundings: Surroundings

    @contextmanager
    def entered(self, *, keep: bool = False) -> Iterator[None]:
        """Run the block there; ``keep``: what it sets up is found there again."""
        with self.surroundings.entered(keep=keep), self.modules.imported(), served(self.modules):
            yield


class FunctionRewardConfig(RewardConfig):
    """A plain Python function: ``module:function``, or ``path/to/file.py:function``."""

    type: Literal["function"] = "function"
    function: str = Field(pattern=r"^.+:[A-Za-z_]\w*$", description="module:function, or path/to/file.py:function")
    batched: bool = Field(True, description="true: lists in, a list out; false: one sample at a time")
    files: tuple[str, ...] = Field((), description="what else the function reads; a change of it scores anew")

    def load(self, *, weights: bool = True) -> "FunctionReward":
        """See ``RewardConfig.load``."""
        return load(self)


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """A user's function. It wants references if it has a parameter of that name; without a default it needs them."""

    identity: str
    sources: Mapping[str, str]
    function: Callable[..., Any]
    batched: bool
    wants_references: bool
    needs_references: bool
    place: Place
    data: Mapping[Path, tuple[tuple[int, int, int], str]]
    """What ``files`` names: how it lay there when it was hashed, and its digest."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Any:
        """Whatever the function returns; ``score`` checks it. Lists are the function's own to change."""
        texts, references = [p.text for p in prompts], [p.reference for p in prompts]
        with self.place.entered():
            if self.batched:
                returned = self.function(texts, list(completions), **self._named(references))
                # a generator runs here too, and an endless one ends
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
                    f"a file of the reward changed while it was used: {path}",
                    expected="one content during a step",
                    hint="bring its content back, then resume the run",
                )

    def _named(self, given: Any) -> Mapping[str, Any]:
        if not self.wants_references:
            return {}
        return {"references" if self.batched else "reference": given}


_LAST: dict[tuple[Path, str], Place] = {}
"""Folder and module → where it was last loaded: modules whose bytes are still the same keep what they hold in memory
(a model, a registration that can be made only once), as imported modules do."""


def load(config: FunctionRewardConfig) -> FunctionReward:
    """The function that ``config`` names. Raises InputError or ConfigError saying why it cannot be used."""
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
    """A new place, with the modules of the last one if nothing of them changed."""
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
        if path.exists() and not path.is_file():  # a FIFO would be waited for
            raise OSError(None, "not a file")
        source = Source(str(path), path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"reward file cannot be read: {path}",
            got=getattr(error, "strerror", error),
            expected="a Python file",
            hint="correct the path before the colon in `function`; it is relative to the current folder",
        ) from None
    name = f"raft_reward_{sha256(str(path).encode() + source.code).hexdigest()[:16]}"
    with _explained(str(path)):
        module = modules.add(name, source)
    others = complete(modules, source.code)
    return module, others.pop(name), others


def _load_module(where: str, modules: LocalModules) -> tuple[ModuleType, str, dict[str, str]]:
    """As ``_load_file``; of an installed module, its own file counts alone."""
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
            f"reward {where} has a syntax error",
            got=f"{error.msg}: {error.filename}, line {error.lineno}: {text}",
            hint="correct that line",
        )
    if isinstance(error, ModuleNotFoundError) and f"{where}.".startswith(f"{error.name}."):
        return ConfigError(
            f"no module named {where}",
            got=told(error),
            expected="an installed module, or one in the current folder",
            hint="correct the part before the colon in `function`; a file is written path/to/file.py:function",
        )
    frames = [
        f"{frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((str(Path(__file__).parent), "<frozen importlib"))
    ]
    do = "let it run without an error: python " + where if where.endswith(".py") else f'try: python -c "import {where}"'
    if isinstance(error, ModuleNotFoundError):
        do = f"install {error.name}; modules beside a file need a package: name package.module:function instead"
    return ConfigError(
        f"reward {where} fails while it is loaded",
        got="\n    ".join([told(error), *frames[-_TRACEBACK_LINES:]]),
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
            got=f"functions there: {', '.join(there) or 'none'}",
            hint=f"did you mean {where}:{near[0]}?" if near else "name one of them after the colon in `function`",
        ) from None
    if inspect.isclass(function) or inspect.iscoroutinefunction(function) or not callable(function):
        kind = "an async function" if inspect.iscoroutinefunction(function) else f"a {type(function).__name__}"
        raise ConfigError(
            f"{where}:{name} cannot be called for rewards",
            got="a class" if inspect.isclass(function) else kind,
            expected="a function",
            hint="write a plain function `def` around it",
        )
    return function  # type: ignore[no-any-return]


def _check_signature(function: Callable[..., Any], config: FunctionRewardConfig) -> inspect.Parameter | None:
    """The parameter by which the function asks for references; raises ConfigError if it cannot be called as told."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C tell none
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
            f"{config.function} does not take what it is given",
            got=f"parameters {signature}",
            expected=f"(prompt{plural}, completion{plural}) or (prompt{plural}, completion{plural}, reference{plural})",
            hint=f"change its parameters, or set batched: {contrary} if it takes "
            + ("one sample at a time" if config.batched else "lists"),
        )
    return asked
