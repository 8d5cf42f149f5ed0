"""The code and data of each reward of a run: pinned when the run starts, and required to stay the same until it ends.

runs/NAME/rewards.json    reward → file or module → sha256, as they are now; a selector from another package is listed
                          as selection.TYPE
commit.json, "rewards"    the same, as they were when the iteration was scored
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from raft_core.errors import ConfigError, IntegrityError
from raft_core.files.artifacts import write_json
from raft_core.files.plain_json import read_json
from raft_core.records.run import Commit, Run, read_chain

FILE = "rewards.json"
FORMAT = 1
Sources = Mapping[str, Mapping[str, str]]


def read_pins(run: Run) -> Sources | None:
    """The pinned code and data of the run's rewards; None for runs of older versions of RAFT. Raises IntegrityError."""
    path = run.path / FILE
    try:
        document = read_json(path)
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}")
        return {str(name): {str(k): str(v) for k, v in of.items()} for name, of in document["rewards"].items()}
    except FileNotFoundError:
        chain = read_chain(run)
        return _of(chain[-1]) if chain else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} cannot be read, so the rewards of run {run.name} cannot be checked",
            got=error,
            hint="restore it from git, or remove it: then the pins in the last commit are used",
        ) from error


def pin(run: Run, found: Sources) -> None:
    """Pin the run's rewards to ``found``."""
    write_json(run.path / FILE, {"format": FORMAT, "rewards": found})


def check_pins(run: Run, found: Sources) -> None:
    """Raise ConfigError if the code or data of a loaded reward differs from the run's pins."""
    if changed := changes(read_pins(run) or {}, found):
        raise ConfigError(
            f"code or data of the rewards of run {run.name} changed after the run started",
            got="; ".join(changed),
            expected="the same code and data from the first iteration to the last",
            hint=f"restore what changed, then raft resume {run.name}; or continue with the new code and data, which "
            f"the records will note: raft resume {run.name} --accept-reward-change",
        )


def changes(then: Sources, now: Sources) -> list[str]:
    """For each reward in both: which of its files and modules changed, one line per reward."""
    return [
        f"{_shown_name(name)}: {', '.join(different)}"
        for name in now
        if name in then and (different := list(_different(then[name], now[name])))
    ]


def changes_of(chain: Sequence[Commit]) -> list[tuple[int, str]]:
    """(iteration, what changed in the rewards before it was made), from the commits."""
    return [
        (after.iteration, change)
        for before, after in pairwise(chain)
        for change in changes(_of(before) or {}, _of(after) or {})
    ]


def _shown_name(name: str) -> str:
    """``selection.TYPE`` has a dot; names of rewards have none."""
    return name if "." in name else f"reward '{name}'"


def _of(commit: Commit) -> Sources | None:
    found: Sources | None = commit.content.get("rewards")
    return found


def _different(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for file in sorted(then.keys() | now.keys()):
        if then.get(file) != now.get(file):
            yield f"{file} {'changed' if file in then and file in now else 'is new' if file in now else 'was removed'}"
