"""What a user's code consists of: the file itself, and every local module that it imports.

Local is what lies neither in the standard library nor in site-packages. Only ``import`` statements
are followed (inside functions too), by reading files: nothing is imported to find out.
"""

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path

from raft_core.records.artifacts import file_digest, json_digest


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let ``import`` look into ``folder`` too, after everything installed, while the block runs."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        last = len(sys.path) - 1 - sys.path[::-1].index(str(folder))
        del sys.path[last]


def source_digest(source: bytes) -> str:
    """Digest of a lone file's ``source`` and of the local modules that it imports."""
    return json_digest([sha256(source).hexdigest(), _local_digests(list(_imports(source, "")))])


def module_digest(module: str) -> str:
    """Digest of ``module``, of its packages, and of the local modules that they import.

    Of an installed module, its own file counts alone.
    """
    path = module_file(module)
    return json_digest([file_digest(path) if path else module, _local_digests(_with_packages(module))])


def _local_digests(waiting: list[str]) -> dict[str, str]:
    digests: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name in digests or (path := module_file(name)) is None or not _is_local(path):
            continue
        source = path.read_bytes()
        digests[name] = sha256(source).hexdigest()
        waiting += _imports(source, f"{name}.__init__" if path.name == "__init__.py" else name)
    return digests


def module_file(module: str) -> Path | None:
    """The ``.py`` file of a module (a package: its ``__init__.py``), found without importing it."""
    top, *rest = module.split(".")
    spec = _spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        stem = Path(folder, *rest)
        for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
            if path.is_file():
                return path
    return None


def _spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _is_local(path: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib"))


def _imports(source: bytes, module: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _with_packages(name)


def _with_packages(module: str) -> list[str]:
    """``a.b.c`` → a, a.b, a.b.c: importing it runs the code of all three."""
    parts = [part for part in module.split(".") if part]
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
