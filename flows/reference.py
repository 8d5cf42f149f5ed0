"""The reference of every configuration key, generated from the pydantic models (``docs/configuration.md``)."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raft_core.config.run import RaftConfig

HEAD = """\
# Configuration

Generated from `raft_core/config/` by `raft config reference`; do not edit.

A configuration is a YAML file. `extends: other.yaml` starts from another one, and dotted overrides come on
top: `raft align configs/reviews.yaml sampling.samples_per_prompt=16`. The end of a path is enough where it names one
key alone (`samples_per_prompt=16`); raft says which key it took. Unknown keys, wrong types and
impossible combinations are refused before a model loads, all at once. `raft config show FILE` prints the
resolved file, `raft config validate FILE` checks it and all that it names. Paths are relative to the current directory.

A key without a default is required. A part with a `type:` key is one of several; its own keys follow below.
"""

BOUNDS = {
    annotated_types.Ge: ("≥", "ge"),
    annotated_types.Gt: (">", "gt"),
    annotated_types.Le: ("≤", "le"),
    annotated_types.Lt: ("<", "lt"),
    annotated_types.MinLen: ("length ≥", "min_length"),
}


def reference() -> str:
    """The whole document."""
    return HEAD + "".join(_section(model, path) for model, path in _parts(RaftConfig, "", set()))


def _parts(model: type[BaseModel], path: str, seen: set[type[BaseModel]]) -> Iterator[tuple[type[BaseModel], str]]:
    """Every model with the first path that leads to it, parents before children."""
    seen.add(model)
    yield model, path
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            if inner not in seen:
                many = "[]" if _is_list(field.annotation) else ""
                yield from _parts(inner, f"{path}.{name}{many}".lstrip("."), seen)


def _section(model: type[BaseModel], path: str) -> str:
    kind = model.model_fields.get("type")
    title = f"`{path}`" if path else "The whole file"
    if kind is not None:
        title += f" with `type: {kind.default}`"
    lines = [f"\n## {title}\n", _one_line(model.__doc__)]
    fields = {name: field for name, field in model.model_fields.items() if name != "type"}
    if fields:
        lines += ["", "| key | type | default | bounds | meaning |", "|---|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`{name}`", _type(field.annotation), _default(field), _bounds(field), _meaning(field))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple and any(True for _ in _models(annotation))


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if models := list(_models(annotation)):
        kinds = [str(model.model_fields["type"].default) for model in models if "type" in model.model_fields]
        one = "one of " + ", ".join(kinds) if len(kinds) > 1 else "a part, see below"
        return ("list, each " if _is_list(annotation) else "") + one + (" or null" if type(None) in inner else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in inner)
    if origin is Annotated:
        return _type(inner[0])
    if origin is tuple:
        return f"list of {_type(inner[0])}" if inner[-1] is Ellipsis else f"{len(inner)} × {_type(inner[0])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    return names.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        kind = field.default.model_fields_set or "type" in type(field.default).model_fields
        return f"`type: {field.default.type}`" if kind and hasattr(field.default, "type") else "its defaults"
    plain = list(field.default) if isinstance(field.default, tuple) else field.default
    words = {None: "null", True: "true", False: "false"}
    if isinstance(plain, bool) or plain is None:
        return f"`{words[plain]}`"
    return f"`{plain!r}`" if isinstance(plain, str | list) else f"`{plain}`"


def _bounds(field: FieldInfo) -> str:
    found = [*field.metadata, *_nested_metadata(field.annotation)]
    texts = []
    for rule in found:
        for kind, (sign, attribute) in BOUNDS.items():
            if isinstance(rule, kind):
                texts.append(f"{sign} {getattr(rule, attribute)}")
        if (pattern := getattr(rule, "pattern", None)) is not None:
            texts.append(f"matches `{pattern}`")
    return ", ".join(texts)


def _nested_metadata(annotation: Any) -> Iterator[Any]:
    for inner in get_args(annotation):
        if get_origin(inner) is Annotated:
            for rule in get_args(inner)[1:]:
                yield from getattr(rule, "metadata", [rule])


def _meaning(field: FieldInfo) -> str:
    """What a key does; of a part without a word of its own, what the part is."""
    models = list(_models(field.annotation))
    return _one_line(field.description or (models[0].__doc__ if len(models) == 1 else "see below" if models else ""))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    print(reference(), end="")
