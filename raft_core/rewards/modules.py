"""The local modules of one reward: private to it, and run from exactly the bytes that were hashed.

A module is local if it is neither in the standard library nor in site-packages and does not belong to RAFT. Each file
is read once; those bytes are hashed, compiled and passed to child processes. ``__pycache__`` is neither read nor
written. The modules are in ``sys.modules`` only while the reward runs, so they are never confused with another
reward's ``helpers`` or with an older version of themselves.

While a reward is loaded, every local module that it imports, in whatever way, becomes part of it. Afterwards only
these modules can be imported: a module that no ``import`` statement names is refused instead of run without being
hashed.

Child processes import this module before anything else, so it needs only the standard library.
"""

import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing.process import current_process
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

OWN = ("raft_core", "tasks", "flows")
"""RAFT's packages: shared by the whole process, and identified by RAFT's version."""
_INSTALLED = tuple({f"{sysconfig.get_path(kind)}/" for kind in ("stdlib", "platstdlib")})


@dataclass(frozen=True, slots=True)
class Source:
    """The file of a module, read once."""

    path: str
    code: bytes

    @property
    def digest(self) -> str:
        """sha256 of the bytes."""
        return sha256(self.code).hexdigest()


class LocalModules(MetaPathFinder):
    """Finds and keeps the modules of one reward; holds state because imports add them one by one.

    ``named``: resolved path → sha256 of each Python file that the reward's ``files`` name; these may be imported at
    any time.
    """

    def __init__(self, named: Mapping[str, str] | None = None) -> None:
        self.sources: dict[str, Source] = {}
        self.compiled: dict[str, str] = {}
        """Name → sha256 of the file of a module that is not Python source; Python itself loads it."""
        self.named = dict(named or {})
        self.complete = False
        self.in_child = False
        self.main: str | None = None
        """The module name that was given to the reward's file."""
        self._modules: dict[str, ModuleType] = {}
        self._spaces: set[str] = set()
        self._late: set[str] = set()
        self._depth = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _in_child, (self.sources, self.compiled, self.named)

    # -- finding ---------------------------------------------------------------------------------

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec, if it is local. Raises ImportError for one that is not part of the reward."""
        if fullname in self.sources:
            return self._spec(fullname)
        spec = _found(fullname, path)
        if spec is None:
            return None
        if is_space(spec):
            self._spaces.add(fullname)
            return spec
        if (origin := local_file(fullname, spec)) is None:
            return None
        self._admit(fullname, origin)
        return self._spec(fullname) if fullname in self.sources else spec

    def admit(self, name: str) -> Source | None:
        """Make a module part of the reward without importing it; None if it is not local."""
        if name not in self.sources and (origin := local_file(name, locate(name))) is not None:
            self._admit(name, origin)
        return self.sources.get(name)

    def _admit(self, name: str, origin: Path) -> None:
        code = origin.read_bytes()
        digest = sha256(code).hexdigest()
        known = self.compiled.get(name) == digest or self.named.get(str(origin.resolve())) == digest
        if self.complete and not known:
            if getattr(current_process(), "_inheriting", False):
                return  # the main module of a child process, which does not belong to the reward
            raise ImportError(
                f"local module {name} is not part of this reward: no import statement names it, so its code is not in "
                f"the reward's identity. Write `import {name}`, or add {origin} to `files` of the reward",
                name=name,
                path=str(origin),
            )
        if self.complete:
            self._late.add(name)
        if origin.suffix == ".py":
            self.sources[name] = Source(str(origin), code)
        else:
            self.compiled[name] = digest

    def _spec(self, name: str) -> ModuleSpec | None:
        path = self.sources[name].path
        folders = [str(Path(path).parent)] if Path(path).name == "__init__.py" else None
        loader = _HashedLoader(name, path, self)
        return spec_from_file_location(name, path, loader=loader, submodule_search_locations=folders)

    # -- running ---------------------------------------------------------------------------------

    def run(self, module: ModuleType) -> None:
        """Execute a module's bytes in it; Python errors are not caught."""
        source = self.sources[module.__name__]
        self._depth += 1
        try:
            exec(compile(source.code, source.path, "exec", dont_inherit=True), module.__dict__)
        except Exception as error:
            if not self.in_child or self._depth > 1:
                raise
            _stand_in(module, error)
        finally:
            self._depth -= 1

    def add(self, name: str, source: Source) -> ModuleType:
        """Run a file of any name as the module ``name``, as part of the reward."""
        self.main, self.sources[name] = name, source
        module = ModuleType(name)
        module.__file__ = source.path
        sys.modules[name] = module  # dataclasses and pickle look up the module of a class by name
        self.run(module)
        return module

    @contextmanager
    def imported(self) -> Iterator[None]:
        """While the block runs, imports come here first, and ``sys.modules`` has no local modules other than these."""
        names = self.sources if self.complete else [*self.sources, *_local_ones()]
        displaced = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            for name in {*self.sources, *self._spaces}:
                if (module := sys.modules.pop(name, None)) is not None:
                    self._modules[name] = module
            sys.modules.update(displaced)

    def keep(self, older: "LocalModules") -> None:
        """Take over the modules of ``older``, whose bytes are those on disk, so that their state in memory is kept."""
        self.sources, self._modules = dict(older.sources), dict(older._modules)
        self._spaces = set(older._spaces)
        for known in (self.sources, self._modules):
            for name in (older.main or "", *older._late):  # the reward's file is run again each time
                known.pop(name, None)

    def is_current(self) -> bool:
        """Whether every module is still found in the same place with the same bytes."""
        for name, source in self.sources.items():
            if name == self.main:
                continue
            origin = local_file(name, locate(name))
            if origin is None or str(origin) != source.path or origin.read_bytes() != source.code:
                return False
        return not self.compiled


class _HashedLoader(SourceFileLoader):
    """Runs the bytes that were read, whatever is on disk or in ``__pycache__`` now."""

    def __init__(self, name: str, path: str, modules: LocalModules) -> None:
        super().__init__(name, path)
        self._modules = modules

    def get_code(self, fullname: str) -> CodeType:
        source = self._modules.sources[fullname]
        return compile(source.code, source.path, "exec", dont_inherit=True)

    def get_data(self, path: str) -> bytes:
        source = self._modules.sources[self.name]
        return source.code if path == source.path else super().get_data(path)

    def exec_module(self, module: ModuleType) -> None:
        self._modules.run(module)


def locate(name: str) -> ModuleSpec | None:
    """Where a module would be found, without importing it or its packages; None if nowhere or not locally."""
    parent, _, _ = name.rpartition(".")
    if not parent:
        return None if _is_known(name) else _found(name, None)
    above = locate(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    if not is_space(above) and local_file(parent, above) is None:
        return None
    return _found(name, list(above.submodule_search_locations))


def local_file(name: str, spec: ModuleSpec | None) -> Path | None:
    """The file of a local module; None for an installed module, one of RAFT's, a namespace package or nothing."""
    if spec is None or not spec.origin or not spec.has_location or _is_known(name):
        return None
    path = Path(spec.origin)
    return path if is_local(spec.origin) and path.is_file() else None


def is_local(path: str) -> bool:
    """Whether a file is outside the standard library and site-packages."""
    return not path.startswith(_INSTALLED) and not {"site-packages", "dist-packages"} & set(Path(path).parts)


def is_space(spec: ModuleSpec) -> bool:
    """Whether it is a package without ``__init__.py`` (a namespace package), only in local folders."""
    folders = list(spec.submodule_search_locations or ())
    return spec.origin is None and bool(folders) and all(map(is_local, folders)) and not _is_known(spec.name)


def _is_known(name: str) -> bool:
    top = name.partition(".")[0]
    return top in OWN or top in sys.stdlib_module_names


def _found(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """What Python would find without LocalModules."""
    for finder in list(sys.meta_path):
        if isinstance(finder, LocalModules):
            continue
        try:
            spec = finder.find_spec(name, path, None)
        except (ImportError, ValueError, AttributeError):
            continue
        if spec is not None:
            return spec
    return None


def _local_ones() -> list[str]:
    """Local modules that the process has imported for other reasons, which a reward must not get."""
    files = {name: getattr(module, "__dict__", {}).get("__file__") for name, module in list(sys.modules.items())}
    return [
        name
        for name, file in files.items()
        if isinstance(file, str)
        and file.endswith(".py")
        and not name.startswith("__")
        and not _is_known(name)
        and is_local(file)
    ]


def _in_child(sources: dict[str, Source], compiled: dict[str, str], named: dict[str, str]) -> LocalModules:
    """Called when unpickled in a child process: from now on the same bytes run there."""
    modules = LocalModules(named)
    modules.sources, modules.compiled, modules.complete, modules.in_child = sources, compiled, True, True
    sys.meta_path.insert(0, modules)
    return modules


def _stand_in(module: ModuleType, error: Exception) -> None:
    """In a child, make every attribute of a module that failed a function that raises the reason when called.

    A pool's worker that cannot unpickle its task dies silently, and the pool would wait for it forever.
    """
    why = f"{module.__name__} ({module.__file__}) fails in a child process: {type(error).__name__}: {error}"

    def fails(*_given: Any, **_named: Any) -> Any:
        raise ImportError(f"{why}. Start processes inside the reward's function, not while its file is loaded")

    module.__getattr__ = lambda name: fails  # type: ignore[method-assign]
