"""The code of a reward: its file, every local module that was imported while loading it, and every local module that
an ``import`` statement in these files names (also inside functions), found by reading the files.
"""

from raft_core.imports import follow_imports, imported_modules, with_packages
from raft_core.rewards.modules import LocalModules


def complete(modules: LocalModules, *begun: bytes, also: str = "") -> dict[str, str]:
    """Add all of it to ``modules``, which then accepts no more; module → sha256.

    ``begun``: the sources to start from, in addition to the modules already added and the module ``also``.
    """

    def imports_of(name: str) -> list[str]:
        if (source := modules.admit(name)) is None:
            return []
        return _imports(source.code, f"{name}.__init__" if source.path.endswith("__init__.py") else name)

    first = [name for source in begun for name in _imports(source, "")]
    follow_imports([*first, *modules.sources, *with_packages(also)], imports_of)
    modules.complete = True
    return {**{name: source.digest for name, source in modules.sources.items()}, **modules.compiled}


def _imports(source: bytes, module: str) -> list[str]:
    try:
        return [part for name in imported_modules(source, module) for part in with_packages(name)]
    except (SyntaxError, ValueError):
        return []
