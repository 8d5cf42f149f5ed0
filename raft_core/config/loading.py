"""Read a configuration: YAML composed by OmegaConf, checked by pydantic, all faults told at once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError, safe_dump

from raft_core.config.overrides import Say, full_overrides, nearest_key
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError
from raft_core.files.artifacts import json_digest
from raft_core.files.plain_yaml import checked_text
from raft_core.redaction import holds_secret

MAX_INTERPOLATIONS = 16
"""References such as ${seed}: each can double what it stands for."""

REFERENCE = re.compile(r"\$\{[A-Za-z_][\w.\[\]]*\}")
"""The one kind of interpolation that is allowed: another key of the same document, such as ${sampling.top_p}."""

Document = TypeVar("Document", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = (), say: Say = lambda line: None) -> RaftConfig:
    """The configuration in ``path`` with ``overrides`` ("sampling.top_p=0.9", or "top_p=0.9") on top.

    A file may begin from another one: ``extends: other.yaml`` (relative to itself). ``say`` hears which key was
    meant by an override that does not give its full path.

    Raises ConfigError with every fault at once, each with its key's path and what to write.
    """
    plain = _composed(path, full_overrides(overrides, RaftConfig, say))
    _refuse_secrets(plain, path)
    return check_config(plain, where=str(path))


def check_config(plain: Any, *, where: str) -> RaftConfig:
    """``plain`` (dicts, lists, scalars) as a configuration; raises ConfigError with every fault.

    Types are strict: ``true`` is no number, and neither is ``"3"``.
    """
    return _checked(RaftConfig, plain, f"{where} is no configuration that can run", "docs/configuration.md")


def load_document(
    model: type[Document], path: Path | None, overrides: Sequence[str] = (), *, what: str, see: str
) -> Document:
    """A YAML file of another kind, such as a promotion policy, read and checked like a configuration.

    Without a file ``overrides`` are all there is. ``what`` it should be, and which page to ``see``, are told with
    the faults.
    """
    plain = _composed(path, full_overrides(overrides, model, lambda line: None))
    return _checked(model, plain, f"{path or ' '.join(overrides)} is no {what}", see)


def _checked(model: type[Document], plain: Any, wrong: str, see: str) -> Document:
    try:
        return model.model_validate(_tuples(plain), strict=True)
    except ValidationError as error:
        faults = "\n".join(f"  - {line}" for line in _faults(error, plain, model))
        raise ConfigError(f"{wrong}:\n{faults}", hint=f"see {see}") from None


def _composed(path: Path | None, overrides: Sequence[str]) -> Any:
    document = OmegaConf.create({}) if path is None else _read(path, seen=())
    for text in overrides:
        _refuse_resolvers(_parsed(text.partition("=")[2]), f"the override {text}")
    try:
        document.merge_with_dotlist(list(overrides))
        return OmegaConf.to_container(document, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, YAMLError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{path or 'the defaults'} and the overrides do not compose", got=error) from error


def dump_config(config: RaftConfig) -> str:
    """The resolved configuration as YAML, every default written out."""
    return str(safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120))


def computed_part(config: RaftConfig) -> dict[str, Any]:
    """What decides a run's bytes: not names, tracking, versioning, where it is done, how often a training is saved."""
    return _without_aside(config.model_dump(mode="json"))


def config_digest(config: RaftConfig) -> str:
    """Identity of what a configuration computes."""
    return json_digest(computed_part(config))


def recorded_digest(plain: Mapping[str, Any]) -> str:
    """``config_digest`` of a configuration as a run's ``config.yaml`` holds it, every default written out.

    It is what the version of raft that wrote it said: keys that came later, with their defaults, are not added.
    """
    return json_digest(_without_aside(plain))


def _without_aside(plain: Mapping[str, Any]) -> dict[str, Any]:
    part = {key: value for key, value in plain.items() if key not in ("name", "tracking", "versioning", "execution")}
    if isinstance(part.get("finetuning"), Mapping):
        part["finetuning"] = {k: v for k, v in part["finetuning"].items() if k != "checkpoint_steps"}
    return part


def default_run_name(config: RaftConfig) -> str:
    """``<config>-<digest8>``: a changed configuration is another run."""
    return f"{config.name}-{config_digest(config)[:8]}"


def _read(path: Path, *, seen: tuple[Path, ...]) -> DictConfig:
    if path.resolve() in seen:
        circle = " -> ".join(map(str, (*seen, path.resolve())))
        raise ConfigError("configurations extend each other in a circle", got=circle, hint="remove one extends")
    try:
        text = checked_text(path)
        _refuse_resolvers(_parsed(text), str(path))
        document = OmegaConf.load(StringIO(text))
    except FileNotFoundError:
        raise ConfigError("no such configuration", got=path, hint="name a YAML file; configs/ holds some") from None
    except (YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is no YAML", got=error) from error
    if not isinstance(document, DictConfig) or not document:
        raise ConfigError(f"{path} holds no keys", expected="a YAML mapping of keys", hint="write at least one key")
    base = document.pop("extends", None)
    if base is None:
        return document
    below = _read(path.parent / str(base), seen=(*seen, path.resolve()))
    try:
        below.merge_with(document)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not fit onto {base}, which it extends", got=error) from error
    return below


def _parsed(text: str) -> Any:
    """``text`` as YAML reads it; what is not YAML is left to OmegaConf, which says so."""
    try:
        return yaml.load(text, Loader=yaml.SafeLoader)
    except YAMLError:
        return text


def _refuse_resolvers(plain: Any, where: str) -> None:
    """Raise ConfigError for an interpolation that calls something or that grows, before OmegaConf resolves any.

    Looked at is what YAML made of the text: escapes such as "$\\x7b" have become what they stand for.
    """
    count = 0
    for text in _texts(plain):
        count += text.count("${")
        if "${" in REFERENCE.sub("", text):
            raise ConfigError(
                f"{where} asks for more than another key of it: nothing reads the environment or calls a function",
                got=text[:200],
                expected="plain references such as ${seed}",
                hint="write the value, or give it as an override: KEY=VALUE",
            )
    if count > MAX_INTERPOLATIONS:
        raise ConfigError(
            f"{where} refers to itself too often", got=count, expected=f"at most {MAX_INTERPOLATIONS} times"
        )


def _texts(plain: Any) -> Iterator[str]:
    """Every string in ``plain``, those of its keys as well; an alias counts as often as it stands there."""
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict):
        for key, value in plain.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _texts(value)


def _refuse_secrets(plain: Any, where: Path, key: str = "") -> None:
    """What a run is made with is recorded and published."""
    if isinstance(plain, str) and holds_secret(plain):
        raise ConfigError(
            f"{key} in {where} holds a secret",
            expected="none: a configuration is recorded and published",
            hint="take it out, change it wherever it is used, and give it to the service by its environment variable",
        )
    parts = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for name, inner in parts:
        _refuse_secrets(inner, where, f"{key}.{name}".lstrip("."))


def _tuples(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _tuples(value) for key, value in plain.items()}
    return tuple(map(_tuples, plain)) if isinstance(plain, list) else plain


def _faults(error: ValidationError, plain: Any, model: type[BaseModel]) -> Iterator[str]:
    """One line a key: what pydantic says of each alternative of a union is joined by "or"."""
    lines: dict[str, list[str]] = {}
    got: dict[str, object] = {}
    for fault in error.errors():
        if fault["type"] == "too_short" and fault["input"]:
            continue  # its items are at fault, and have told so
        where = _key_path(fault["loc"], plain, missing=fault["type"] == "missing")
        message = fault["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
        context = fault.get("ctx", {})
        if fault["type"] == "extra_forbidden":
            key = ".".join(map(str, where))
            near = nearest_key(key, model)
            message = f"unknown key; did you mean {near}?" if near else "unknown key; remove it"
            if near and re.sub(r"\[(\d+)\]", r".\1", near) == key:
                message = "a key of another `type`; remove it, or change the type"
        elif fault["type"] == "missing":
            message = "is required"
        elif fault["type"] == "model_type":
            message = "must be a mapping of keys"
        elif fault["type"] == "union_tag_not_found":
            where, message = [*where, "type"], "is required: it says which kind this is"
        elif fault["type"] == "union_tag_invalid":
            where = [*where, "type"]
            message = f"unknown type {context['tag']!r}; use one of {context['expected_tags']}"
            if where[0] in ("scoring", "selection"):
                message += ", or install the package that brings it"
        key = ".".join(map(str, where)) or "(whole file)"
        if fault["type"] not in _SELF_EXPLAINED:
            got[key] = fault["input"]
        lines.setdefault(key, []).append(message)
    for key, messages in lines.items():
        yield f"{key}: {' or '.join(messages)}" + (f"; got {got[key]!r}" if key in got else "")


_SELF_EXPLAINED = {"value_error", "missing", "extra_forbidden", "union_tag_not_found", "union_tag_invalid"}


def _key_path(loc: Sequence[int | str], plain: Any, *, missing: bool) -> list[int | str]:
    """pydantic's location without what is no key of the file: tags and alternatives of unions."""
    path: list[int | str] = []
    node, entered = plain, True
    for depth, part in enumerate(loc):
        if isinstance(node, dict) and entered and part == node.get("type") and depth + 1 < len(loc):
            entered = False
        elif (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            path.append(part)
            node, entered = node[part], True  # type: ignore[index]
        elif missing and depth + 1 == len(loc):
            path.append(part)
    return path
