"""Read a configuration: YAML composed by OmegaConf and checked by pydantic; all errors are reported together."""

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
"""Maximum number of references such as ${seed} in a file: a chain of them could grow without limit."""

REFERENCE = re.compile(r"\$\{[A-Za-z_][\w.\[\]]*\}")
"""The one kind of interpolation that is allowed: another key of the same document, such as ${sampling.top_p}."""

Document = TypeVar("Document", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = (), say: Say = lambda line: None) -> RaftConfig:
    """The configuration in ``path`` with ``overrides`` ("sampling.top_p=0.9", or "top_p=0.9") applied.

    A file may extend another one: ``extends: other.yaml`` (relative to the file itself). ``say`` is called with a line
    that names the full key wherever an override gives only the end of it.

    Raises ConfigError that lists every error, each with the key's path and what to write instead.
    """
    plain = _composed(path, full_overrides(overrides, RaftConfig, say))
    _refuse_secrets(plain, path)
    return check_config(plain, where=str(path))


def check_config(plain: Any, *, where: str) -> RaftConfig:
    """``plain`` (dicts, lists, scalars) as a configuration; raises ConfigError that lists every error.

    Types are strict: neither ``true`` nor ``"3"`` is accepted as a number.
    """
    see = "docs/configuration.md, or in the output of `raft config reference`"
    return _checked(RaftConfig, plain, f"{where} is not a valid configuration", see)


def load_document(
    model: type[Document], path: Path | None, overrides: Sequence[str] = (), *, what: str, see: str
) -> Document:
    """A YAML file of another kind, such as promotion rules, read and checked like a configuration.

    Without a file the ``overrides`` are the whole document. ``what`` it should be and the page to ``see`` are part
    of the error message.
    """
    if path is not None and not path.exists():
        raise ConfigError(
            f"{what} file not found: {path}",
            expected="a YAML file; the path is relative to the current directory",
            hint=f"correct the path; {see} shows what the file contains",
        )
    plain = _composed(path, full_overrides(overrides, model, lambda line: None))
    return _checked(model, plain, f"invalid {what} in {path or ' '.join(overrides)}", see)


def _checked(model: type[Document], plain: Any, wrong: str, see: str) -> Document:
    try:
        return model.model_validate(_tuples(plain), strict=True)
    except ValidationError as error:
        faults = "\n".join(f"  - {line}" for line in _faults(error, plain, model))
        raise ConfigError(f"{wrong}:\n{faults}", hint=f"look the keys up in {see}") from None


def _composed(path: Path | None, overrides: Sequence[str]) -> Any:
    document = OmegaConf.create({}) if path is None else _read(path, seen=())
    for text in overrides:
        _refuse_resolvers(_parsed(text.partition("=")[2]), f"the override {text}")
    try:
        document.merge_with_dotlist(list(overrides))
        return OmegaConf.to_container(document, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, YAMLError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path or 'the defaults'} and the overrides cannot be combined"
            if overrides
            else f"{path} contains a reference or value that cannot be resolved",
            got=str(error).partition("\n")[0],
            hint=f"check {', '.join([*overrides, *(['the references ${…} in the file'] if path else [])])}"
            + ("; write a list in brackets: KEY=[{…}]" if "ListConfig" in str(error) else ""),
        ) from error


def dump_config(config: RaftConfig) -> str:
    """The resolved configuration as YAML, every default written out."""
    return str(safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120))


def computed_part(config: RaftConfig) -> dict[str, Any]:
    """The settings that decide a run's results: without name, tracking, versioning, execution, checkpoint_steps."""
    return _without_aside(config.model_dump(mode="json"))


def config_digest(config: RaftConfig) -> str:
    """Identity of what a configuration computes."""
    return json_digest(computed_part(config))


def recorded_digest(plain: Mapping[str, Any]) -> str:
    """``config_digest`` of a configuration as a run's ``config.yaml`` holds it, with every default written out.

    It equals the digest that the writing version of raft computed: keys added since then are not filled in.
    """
    return json_digest(_without_aside(plain))


def _without_aside(plain: Mapping[str, Any]) -> dict[str, Any]:
    part = {key: value for key, value in plain.items() if key not in ("name", "tracking", "versioning", "execution")}
    if isinstance(part.get("finetuning"), Mapping):
        part["finetuning"] = {k: v for k, v in part["finetuning"].items() if k != "checkpoint_steps"}
    return part


def default_run_name(config: RaftConfig) -> str:
    """``<name>-<digest8>``: a changed configuration gets another name."""
    return f"{config.name}-{config_digest(config)[:8]}"


def _read(path: Path, *, seen: tuple[Path, ...]) -> DictConfig:
    if path.resolve() in seen:
        circle = " -> ".join(map(str, (*seen, path.resolve())))
        raise ConfigError(
            f"{path} extends itself through other files", got=circle, hint="remove the key extends from one of them"
        )
    try:
        text = checked_text(path)
        _refuse_resolvers(_parsed(text), str(path))
        document = OmegaConf.load(StringIO(text))
    except FileNotFoundError:
        raise ConfigError(
            f"configuration file not found: {path}",
            expected=f"a YAML file; the path is relative to {_start(seen)}",
            hint="correct the path; configs/ has files to start from, such as configs/tiny.yaml",
        ) from None
    except (YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        marked = getattr(error, "problem_mark", None) is not None
        raise ConfigError(
            f"{path} is not valid YAML" if marked else f"{path} cannot be read",
            got=str(error).replace('in "<file>", line', "at line"),
            hint="correct that line; look for an unclosed bracket or quote, a tab, or a colon without a space after it"
            if marked
            else "name a text file of YAML keys and values in UTF-8; configs/tiny.yaml is an example",
        ) from error
    if not isinstance(document, DictConfig) or not document:
        raise ConfigError(
            f"{path} contains no configuration keys",
            expected="a YAML mapping, such as `name: mine`",
            hint="look at configs/tiny.yaml for a complete file",
        )
    base = document.pop("extends", None)
    if base is None:
        return document
    below = _read(path.parent / str(base), seen=(*seen, path.resolve()))
    try:
        below.merge_with(document)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be combined with {base}, which it extends",
            got=error,
            hint="give each key the same kind of value (mapping, list or scalar) in both files",
        ) from error
    return below


def _start(seen: tuple[Path, ...]) -> str:
    return f"{seen[-1]}, which extends it" if seen else "the current directory"


def _parsed(text: str) -> Any:
    """``text`` as YAML reads it; what is not YAML is returned as it is, and OmegaConf reports it."""
    try:
        return yaml.load(text, Loader=yaml.SafeLoader)
    except YAMLError:
        return text


def _refuse_resolvers(plain: Any, where: str) -> None:
    """Raise ConfigError for an interpolation that calls a function, or too many of them, before OmegaConf resolves any.

    This looks at the parsed YAML, in which escapes such as "$\\x7b" are already resolved.
    """
    count = 0
    for text in _texts(plain):
        count += text.count("${")
        if "${" in REFERENCE.sub("", text):
            raise ConfigError(
                f"{where} uses an interpolation that is not a reference to another key",
                got=text[:200],
                expected="references such as ${seed}; environment variables and functions are not available",
                hint="write the value itself, or give it on the command line: KEY=VALUE",
            )
    if count > MAX_INTERPOLATIONS:
        raise ConfigError(
            f"{where} contains too many references ${{…}}",
            got=count,
            expected=f"at most {MAX_INTERPOLATIONS}",
            hint="write some of the values out",
        )


def _texts(plain: Any) -> Iterator[str]:
    """Every string in ``plain``, keys included; a YAML alias counts each time it is used."""
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
    """Raise ConfigError for a value that looks like a password or token: configurations are recorded and published."""
    if isinstance(plain, str) and holds_secret(plain):
        raise ConfigError(
            f"{key} in {where} contains a secret (a password, token or key)",
            expected="no secrets: a configuration is copied into the run, into MLflow and into exports",
            hint="remove it, set it through the service's environment variable instead, and replace it at the service "
            "if the file was shared",
        )
    parts = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for name, inner in parts:
        _refuse_secrets(inner, where, f"{key}.{name}".lstrip("."))


def _tuples(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _tuples(value) for key, value in plain.items()}
    return tuple(map(_tuples, plain)) if isinstance(plain, list) else plain


def _faults(error: ValidationError, plain: Any, model: type[BaseModel]) -> Iterator[str]:
    """One line per key; pydantic's messages for the alternatives of a union are joined by "or"."""
    lines: dict[str, list[str]] = {}
    got: dict[str, object] = {}
    for fault in error.errors():
        if fault["type"] == "too_short" and fault["input"]:
            continue  # the errors of its items are reported themselves
        where = _key_path(fault["loc"], plain, missing=fault["type"] == "missing")
        message = fault["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
        context = fault.get("ctx", {})
        if fault["type"] == "extra_forbidden":
            key = ".".join(map(str, where))
            near = nearest_key(key, model)
            message = f"unknown key; did you mean {near}?" if near else "unknown key; remove it"
            if near and re.sub(r"\[(\d+)\]", r".\1", near) == key:
                message = "belongs to another `type`; remove this key, or change the type"
        elif fault["type"] == "missing":
            message = "is required"
        elif fault["type"] == "model_type":
            message = "must be a mapping of keys and values"
        elif fault["type"] == "union_tag_not_found":
            where, message = [*where, "type"], "is required: it says which of the kinds this is"
        elif fault["type"] == "union_tag_invalid":
            where = [*where, "type"]
            message = f"unknown type {context['tag']!r}; use one of {context['expected_tags']}"
            if where[0] in ("scoring", "selection"):
                message += ", or install the package that provides it"
        key = ".".join(map(str, where)) or "(whole file)"
        if fault["type"] not in _SELF_EXPLAINED:
            got[key] = fault["input"]
        lines.setdefault(key, []).append(message)
    for key, messages in lines.items():
        yield f"{key}: {' or '.join(messages)}" + (f"; got {got[key]!r}" if key in got else "")


_SELF_EXPLAINED = {"value_error", "missing", "extra_forbidden", "union_tag_not_found", "union_tag_invalid"}


def _key_path(loc: Sequence[int | str], plain: Any, *, missing: bool) -> list[int | str]:
    """pydantic's location without the parts that are not keys of the file: tags and alternatives of unions."""
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
