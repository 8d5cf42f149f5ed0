"""Which code a module consists of: the modules that it imports, found and hashed from their text. Nothing is run."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from raft_core.files.artifacts import json_digest

ROOT = Path(__file__).parents[1]
OURS = "raft_core"
REGISTRIES = {f"{OURS}.{room}.registry" for room in ("losses", "metrics", "rewards", "selection")}
"""They only name modules by text: a new line there changes nothing that runs."""


@cache
def code_digest(*modules: str, within: tuple[str, ...] = (OURS,)) -> str:
    """sha256 of the source of ``modules`` and of every module that they import from the packages ``within``.

    What is only looked up by name (in ``REGISTRIES``, which are left out) must be among ``modules``. Imports for type
    checkers alone are not followed. Raises ValueError where one of ``modules`` has no Python source, or a source cannot
    be read.
    """
    if missing := [name for name in modules if source_of(name) is None]:
        raise ValueError(f"no Python source of {', '.join(missing)}")
    seen: dict[str, str] = {}

    def imports_of(name: str) -> Iterator[str]:
        if name in REGISTRIES or (source := source_of(name)) is None:
            return
        seen[name] = sha256(source).hexdigest()
        for imported in _imported(source, name):
            top = next((package for package in within if f"{imported}.".startswith(f"{package}.")), None)
            if top is not None:
                # Of another package the folders' __init__.py run too; ours are empty or lists of names.
                yield from [imported] if imported.startswith(f"{OURS}.") else with_packages(imported)
        yield from with_packages(name) if not name.startswith(f"{OURS}.") else ()

    follow_imports(modules, imports_of)
    return json_digest(seen)


def follow_imports(modules: Iterable[str], imports_of: Callable[[str], Iterable[str]]) -> None:
    """Call ``imports_of`` once for each of ``modules`` and for every module that it returns."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += imports_of(name)


def source_of(module: str) -> bytes | None:
    """The source of ``module``, without importing it or its packages; None where it has none.

    Raises ValueError where the file cannot be read.
    """
    path = _file_of(module)
    try:
        return path.read_bytes() if path is not None else None
    except OSError as error:
        raise ValueError(f"the source of {module} cannot be read: {path}: {error.strerror}") from None


def _file_of(module: str) -> Path | None:
    top, _, rest = module.partition(".")
    if top == OURS:
        folders = [ROOT / OURS]
    else:
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        if not rest and spec.origin and spec.origin.endswith(".py"):
            return Path(spec.origin)
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    inner = rest.split(".") if rest else []
    for folder in folders:
        stem = folder.joinpath(*inner)
        for path in (stem / "__init__.py", *([stem.with_name(f"{stem.name}.py")] if inner else [])):
            if path.is_file():
                return path
    return None


def _imported(source: bytes, module: str) -> Iterator[str]:
    """See ``imported_modules``; of a package and a module alike, since only the names that exist are followed."""
    try:
        yield from imported_modules(source, module, for_types=False)
        if re.search(rb"^\s*from\s+\.", source, re.MULTILINE):
            yield from imported_modules(source, f"{module}.__init__", for_types=False)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the source of {module} is not Python: {error}") from None


def imported_modules(source: bytes | str, module: str, *, for_types: bool = True) -> Iterator[str]:
    """Every module that an ``import`` statement (inside functions too) may name: ``a.b`` of ``from a import b`` too.

    ``module``: the full name of the source's module, ``package.__init__`` for a package: relative imports start there.
    ``for_types``: with what stands below ``if TYPE_CHECKING:``, which never runs. Raises SyntaxError or ValueError for
    what is not Python.
    """
    tree = ast.parse(source)
    never = set() if for_types else {id(inner) for node in ast.walk(tree) for inner in _below_type_checking(node)}
    for node in ast.walk(tree):
        if id(node) in never:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from names


def _below_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        for statement in node.body:
            yield from ast.walk(statement)


def with_packages(module: str) -> list[str]:
    """``a.b.c`` → a, a.b, a.b.c: importing it runs the code of all three."""
    parts = [part for part in module.split(".") if part]
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
