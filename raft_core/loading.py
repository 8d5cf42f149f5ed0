"""Read a configuration: YAML composed by OmegaConf, checked by pydantic, all faults told at once."""

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError, safe_dump

from raft_core.config import RaftConfig
from raft_core.errors import ConfigError
from raft_core.records.artifacts import json_digest


def load_config(path: Path, overrides: Sequence[str] = ()) -> RaftConfig:
    """The configuration in ``path`` with dotted ``overrides`` ("sampling.top_p=0.9") on top.

    A file may begin from another one: ``extends: other.yaml`` (relative to itself).

    Raises ConfigError with every fault at once, each with its key's path and what to write.
    """
    document = _read(path, seen=())
    if wrong := [text for text in overrides if "=" not in text]:
        raise ConfigError("an override that is no key=value", got=" ".join(wrong), do="write sampling.top_p=0.9")
    try:
        merged = OmegaConf.merge(document, OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} and its overrides do not compose", got=error) from error
    return check_config(plain, where=str(path))


def check_config(plain: Any, *, where: str) -> RaftConfig:
    """``plain`` (dicts, lists, scalars) as a configuration; raises ConfigError with every fault."""
    try:
        return RaftConfig.model_validate(plain)
    except ValidationError as error:
        faults = "\n".join(f"  - {line}" for line in _faults(error))
        raise ConfigError(
            f"{where} is no configuration that can run:\n{faults}", do="see docs/configuration.md"
        ) from None


def dump_config(config: RaftConfig) -> str:
    """The resolved configuration as YAML, every default written out."""
    return str(safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120))


def config_digest(config: RaftConfig) -> str:
    """Identity of what a configuration computes: everything but names, tracking and versioning."""
    return json_digest(config.model_dump(mode="json", exclude={"name", "tracking", "versioning"}))


def default_run_name(config: RaftConfig) -> str:
    """``<config>-<digest8>``: a changed configuration is another run."""
    return f"{config.name}-{config_digest(config)[:8]}"


def _read(path: Path, *, seen: tuple[Path, ...]) -> Any:
    if path in seen:
        raise ConfigError("configurations extend each other in a circle", got=" -> ".join(map(str, (*seen, path))))
    try:
        document = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError("no such configuration", got=path, do="name a YAML file; configs/ holds some") from None
    except (YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is no YAML", got=error) from error
    if not isinstance(document, DictConfig) or not document:
        raise ConfigError(f"{path} holds no keys", expected="a YAML mapping", do="start from configs/tiny.yaml")
    base = document.pop("extends", None)
    if base is None:
        return document
    return OmegaConf.merge(_read(path.parent / str(base), seen=(*seen, path)), document)


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        where = [part for part in fault["loc"] if not str(part).endswith("Config")]
        key = ".".join(map(str, where)) or "(whole file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key{_nearest(where)}"
        elif fault["type"] == "missing":
            message = "is required"
        elif fault["type"] != "value_error":
            message = f"{message}; got {fault['input']!r}"
        yield f"{key}: {message}"


def _nearest(where: Sequence[object]) -> str:
    names = sorted(_all_keys(RaftConfig, set()))
    near = difflib.get_close_matches(str(where[-1]), names, n=1) if where else []
    return f"; did you mean {near[0]}?" if near else "; remove it"


def _all_keys(model: type[BaseModel], seen: set[type]) -> Iterator[str]:
    seen.add(model)
    for name, field in model.model_fields.items():
        yield name
        for inner in _models(field.annotation):
            if inner not in seen:
                yield from _all_keys(inner, seen)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)
