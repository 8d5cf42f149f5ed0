"""Plugins: a reward, selector, loss or metric is one class in one file, named by its ``type``.

Ours are listed in the ``registry`` module of each kind. An installed package adds its own through an entry point,
without a change here (https://packaging.python.org/specifications/entry-points):

    [project.entry-points."raft.selectors"]
    softmax = "my_package.softmax:Softmax"

All plugins of a group are imported with the configuration, since pydantic must know every class.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, reduce
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import Field, create_model, model_validator

from raft_core.config.model import ConfigModel
from raft_core.imports import code_digest

Plugin = TypeVar("Plugin", bound=ConfigModel)
NAME = r"[A-Za-z0-9_\-]+"
"""What a type may be called: it names columns and files."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plugin of another package comes from. ``digest``: sha256 over its module and what that imports there."""

    package: str
    module: str
    digest: str


@dataclass(frozen=True, slots=True)
class Registry(Generic[Plugin]):
    """The plugins of one kind. ``own``: type → ``module:Class``, in the order in which the help lists them."""

    group: str
    base: type[Plugin]
    own: Mapping[str, str]
    check: Callable[[type[Plugin]], None] | None = None
    """Raises TypeError for a class of another package that this kind of plugin cannot use."""

    def union(self) -> Any:
        """All classes as one type for pydantic, which the key ``type`` distinguishes."""
        return Annotated[reduce(or_, self.classes().values()), Field(discriminator="type")]

    def classes(self) -> dict[str, type[Plugin]]:
        """Type → class. A package that cannot be used leaves a class that refuses to be configured and says why."""
        found = {kind: _class(place) for kind, place in self.own.items()}
        for kind, offers in _offered(self.group).items():
            if kind not in self.own:
                found[kind] = self._of_package(kind, offers)
        return found

    def of_package(self, value: object) -> object:
        """A plugin of another package from its settings, for a pydantic field that none of ours may fill."""
        if not isinstance(value, dict):
            return value
        kind, classes = value.get("type"), self.classes()
        if not isinstance(kind, str):
            raise ValueError("each needs a type, the name of a plugin; write type: NAME")
        others = [known for known in classes if known not in self.own]
        if kind in self.own:
            raise ValueError(f"{kind} is part of RAFT and always used; remove it from this list")
        if kind not in others:
            offered = (
                f"installed packages provide {', '.join(others)}"
                if others
                else f"no installed package has an entry point in {self.group}"
            )
            raise ValueError(f"unknown type {kind!r}; {offered}")
        return classes[kind].model_validate(value, strict=True)

    def provenance(self, plugin: Plugin) -> Provenance | None:
        """Of a plugin that an installed package brought; None for ours, which the version of RAFT names."""
        kind = str(type(plugin).model_fields["type"].default)
        offers = () if kind in self.own else _offered(self.group).get(kind, ())
        if not offers:
            return None
        module = type(plugin).__module__
        return Provenance(_package(offers[0]), module, _digest(module))

    def sources(self, plugin: Plugin) -> dict[str, str]:
        """Code of another package, in the form in which a run pins what scores and selects; empty for ours."""
        came = self.provenance(plugin)
        return {f"{came.module} of {came.package}": came.digest} if came else {}

    def _of_package(self, kind: str, offers: tuple[EntryPoint, ...]) -> type[Plugin]:
        try:
            if len(offers) > 1:
                raise TypeError(f"more than one package has it: {', '.join(map(_package, offers))}")
            plugin = offers[0].load()
            if not (isinstance(plugin, type) and issubclass(plugin, self.base)):
                raise TypeError(f"{offers[0].value} is not a subclass of {self.base.__module__}.{self.base.__name__}")
            if missing := sorted(getattr(plugin, "__abstractmethods__", ())):
                raise TypeError(f"{offers[0].value} does not define {', '.join(missing)}")
            if (default := plugin.model_fields["type"].default) != kind:
                raise TypeError(f"the type of {offers[0].value} is {default!r}, its entry point is called {kind!r}")
            literal: Any = Literal[kind]
            if plugin.model_fields["type"].annotation != literal:
                raise TypeError(f"the type of {offers[0].value} must be annotated as Literal[{kind!r}]")
            if not re.fullmatch(NAME, kind):
                raise TypeError(f"the type {kind!r} has other characters than letters, digits, _ and -")
            plugin.model_rebuild()
            _check_settings(plugin)
            if self.check is not None:
                self.check(plugin)
            _digest(plugin.__module__)
        except (Exception, SystemExit) as error:  # whatever the import of somebody's package raises
            return _unusable(self.base, kind, f"{_package(offers[0])}: {type(error).__name__}: {error}")
        return plugin


@cache
def _offered(group: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for offer in sorted(entry_points(group=group), key=lambda offer: (offer.name, offer.value)):
        found[offer.name] = (*found.get(offer.name, ()), offer)
    return found


def _digest(module: str) -> str:
    """Over the plugin's module and what that imports of its own package. Raises ValueError where there is no source."""
    return code_digest(module, within=(module.partition(".")[0],))


def _check_settings(plugin: type[ConfigModel]) -> None:
    """A configuration is frozen and travels as YAML and JSON: refuse settings of a type that cannot."""
    for name, field in plugin.model_fields.items():
        for kind in _types_in(field.annotation):
            if isinstance(kind, type) and issubclass(kind, list | set | dict | bytearray | Path | Enum):
                raise TypeError(
                    f"setting {name} is declared with {kind.__name__}; use str, int, float, bool, "
                    "Literal, tuple[…] or a ConfigModel of these"
                )


def _types_in(annotation: Any) -> Iterator[Any]:
    yield get_origin(annotation) or annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _package(offer: EntryPoint) -> str:
    return f"{offer.dist.name} {offer.dist.version}" if offer.dist else offer.value


def _unusable(base: type[Plugin], kind: str, why: str) -> type[Plugin]:
    def refuse(cls: type, value: object) -> object:
        raise ValueError(f"{kind} comes with a package that cannot be used ({why}); repair or remove that package")

    parts: dict[str, Any] = {
        "__validators__": {"refuse": model_validator(mode="before")(refuse)},
        "type": (Literal[kind], kind),
    }
    return create_model(kind, __base__=base, __doc__=f"Cannot be used: {why}", **parts)
