"""Read foreign YAML with limits: no Python objects, no exploding aliases, no deep nesting."""

import re
from pathlib import Path
from typing import Any

import yaml

from raft_core.files.plain_json import open_regular

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
"""Nodes of a document with every alias expanded (a "billion laughs" file has 10⁹ in a kilobyte)."""
MAX_DEPTH = 50

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEP = re.compile(rf"^[ \-?:]{{{2 * MAX_DEPTH},}}", re.MULTILINE)


def read_yaml(path: Path) -> Any:
    """The one document in ``path`` as dicts, lists and scalars.

    Raises yaml.YAMLError if it is not plain YAML (Python tags are not), and the errors of reading a file.
    """
    return yaml.load(checked_text(path), Loader=_Loader)


def checked_text(path: Path) -> str:
    """The text in ``path`` after checking its size, depth and aliases. Raises like ``read_yaml``."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from None
    if len(data) > MAX_BYTES:
        raise yaml.YAMLError(f"the file has more than {MAX_BYTES >> 20} MiB, which is too long for a configuration")
    text = data.decode("utf-8-sig")
    if "&" in text or text.count("[") + text.count("{") > MAX_DEPTH or _DEEP.search(text):
        _check_depth(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _size(root, {}) > MAX_NODES:
            raise yaml.YAMLError(
                f"its aliases expand to more than {MAX_NODES:,} values; write the values without aliases"
            )
    return text


def _check_depth(text: str) -> None:
    """Reject deep nesting from parser events, before any recursive code reads it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep")


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of nodes below ``node`` with aliases expanded. Raises YAMLError for an alias that contains itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if (size := known.get(id(node))) is not None:
        if size < 0:
            raise yaml.YAMLError("an alias contains itself")
        return size
    known[id(node)] = -1
    parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    total = 1 + sum(_size(part, known) for part in parts)
    known[id(node)] = total
    return total
