"""Start a module in a child Python process, with the code of this process and without modules of the current folder.

``python -m`` looks for modules in the current folder first, and PYTHONPATH comes before the standard library, so a
``random.py`` in that folder would replace Python's own. Therefore a child is started through this file
(``children.py ROOT MODULE ARGUMENTS…``, with ``-P``), which finds RAFT's packages, and only those, in ROOT.
"""

import importlib
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
OURS = ("flows", "tasks", "raft_core", "benchmarks")


def python_module(module: str, *arguments: str, root: Path = ROOT) -> list[str]:
    """The command that runs ``module`` from ``root`` or from an installed package, as ``python -m`` would.

    With ``package.module:function`` it calls that function instead.
    """
    return [sys.executable, "-P", str(Path(__file__).resolve()), str(root), module, *arguments]


class _OurPackages:
    """Finds RAFT's packages in one folder, whatever is installed; Python finds the modules inside them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The package ``name``; None if it is not one of RAFT's."""
        file = self.root / name / "__init__.py"
        if name not in OURS or not file.is_file():
            return None
        return importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])


if __name__ == "__main__":
    started, _, called = sys.argv[2].partition(":")
    sys.meta_path.insert(0, _OurPackages(Path(sys.argv[1])))
    sys.argv = [started, *sys.argv[3:]]
    if called:
        getattr(importlib.import_module(started), called)()
    else:
        runpy.run_module(started, run_name="__main__", alter_sys=True)
