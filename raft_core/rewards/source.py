"""What a reward's code consists of: its file, every local module that loading it imported, and every local module
that an ``import`` statement of these names (inside functions too), found by reading files.
"""

import ast
from collections.abc import Iterable, Iterator

from raft_core.rewards.modules import LocalModules


def complete(modules: LocalModules, *begun: bytes, also: str = "") -> dict[str, str]:
    """Make all of it part of ``modules``, which then takes no more; module → sha256.

    ``begun``: the sources to begin from, beside the modules that are there already and the module ``also``.
    """
    waiting = [name for source in begun for name in _imports(source, "")]
    waiting += [*modules.sources, *with_packages(also)]
    seen: set[str] = set()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        if (source := modules.admit(name)) is not None:
            waiting += _imports(source.code, f"{name}.__init__" if source.path.endswith("__init__.py") else name)
    modules.complete = True
    return {**{name: source.digest for name, source in modules.sources.items()}, **modules.compiled}


def with_packages(module: str) -> list[str]:
    """``a.b.c`` → a, a.b, a.b.c: importing it runs the code of all three."""
    parts = [part for part in module.split(".") if part]
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _imports(source: bytes, module: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        names: Iterable[str]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from with_packages(name)
