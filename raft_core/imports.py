"""Which modules a Python source imports, read from its text: nothing is run."""

import ast
from collections.abc import Iterator


def imported_modules(source: bytes | str, module: str) -> Iterator[str]:
    """Every module that an ``import`` statement (inside functions too) may name: ``a.b`` of ``from a import b`` too.

    ``module``: the full name of the source's module, ``package.__init__`` for a package: relative imports start there.
    Raises SyntaxError or ValueError for what is not Python.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from names


def with_packages(module: str) -> list[str]:
    """``a.b.c`` → a, a.b, a.b.c: importing it runs the code of all three."""
    parts = [part for part in module.split(".") if part]
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
