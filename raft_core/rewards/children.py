"""Give processes that a reward starts by spawn or fork server the reward's own modules, as they were hashed.

Such a child is a new Python process. It would look for the reward's functions by the name of their module, and find
nothing or other bytes; and ``python -c`` would prefer a module of the current folder over the standard library.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn, util
from typing import Any

from raft_core.rewards.modules import LocalModules


@contextmanager
def served(modules: LocalModules) -> Iterator[None]:
    """While the block runs, ``multiprocessing`` passes ``modules`` to the children that it starts."""
    prepared, flags = spawn.get_preparation_data, util._args_from_interpreter_flags  # type: ignore[attr-defined]

    def with_modules(name: str) -> dict[str, Any]:
        return {"raft_modules": modules, **prepared(name)}

    def without_current_folder() -> list[str]:
        return list(dict.fromkeys([*flags(), "-P"]))

    spawn.get_preparation_data = with_modules
    util._args_from_interpreter_flags = without_current_folder  # type: ignore[attr-defined]
    try:
        yield
    finally:
        spawn.get_preparation_data = prepared
        util._args_from_interpreter_flags = flags  # type: ignore[attr-defined]
