"""Reuse by content address: a step with the same key is not run twice, in any run.

The key of a step is the digest of everything that can change its output: inputs, settings, seed, the code that it runs
and the determinism fingerprint. The index of finished outputs in ``runs/.steps`` may be deleted: every hit is verified
by hashing the files.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_core.errors import IntegrityError
from raft_core.files.artifacts import copy_shared, digest_of, json_digest, write_json
from raft_core.files.plain_json import read_json


@dataclass(frozen=True, slots=True)
class StepKey:
    """Everything that can change the bytes of a step's outputs. All fields can be written as JSON."""

    step: str
    inputs: Mapping[str, str | None]
    settings: Any
    code: str
    numerics: Mapping[str, Any]
    seed: int = 0

    @property
    def digest(self) -> str:
        """The content address."""
        return json_digest([self.step, dict(self.inputs), self.settings, self.code, dict(self.numerics), self.seed])


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A finished step, as committed. ``inputs``, ``outputs``: name → digest; ``code``: digest of its modules."""

    key: str
    inputs: Mapping[str, str | None]
    outputs: Mapping[str, str]
    reused: bool
    code: str = ""


def run_cached(runs: Path, key: StepKey, outputs: Mapping[str, Path], compute: Callable[[], None]) -> StepRecord:
    """Provide ``outputs`` (name → path): reuse those of an earlier step with this key, else compute them.

    ``compute`` must create every path atomically (write to a temporary name, then rename).
    """
    entry = runs / ".steps" / f"{key.digest}.json"
    if (found := _reuse(runs, entry, outputs)) is not None:
        return StepRecord(key.digest, key.inputs, found, reused=True, code=key.code)
    for path in outputs.values():
        _remove(path)
    compute()
    digests = {name: digest_of(path) for name, path in outputs.items()}
    where = {
        name: {"path": path.relative_to(runs).as_posix(), "digest": digests[name]} for name, path in outputs.items()
    }
    write_json(entry, where)
    return StepRecord(key.digest, key.inputs, digests, reused=False, code=key.code)


def _reuse(runs: Path, entry: Path, outputs: Mapping[str, Path]) -> dict[str, str] | None:
    try:
        found = read_json(entry)
        if found.keys() != outputs.keys():
            return None
        for name, target in outputs.items():
            source, digest = runs / found[name]["path"], found[name]["digest"]
            if target.exists() and digest_of(target) == digest:
                continue
            if not source.exists() or digest_of(source) != digest:
                return None
            _remove(target)
            aside = target.with_name(f".{target.name}.reused")
            _remove(aside)
            aside.parent.mkdir(parents=True, exist_ok=True)
            copy_shared(source, aside)
            aside.rename(target)
        return {name: found[name]["digest"] for name in outputs}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IntegrityError):
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
