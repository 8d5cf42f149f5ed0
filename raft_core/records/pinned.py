"""Which code and data each reward of a run consists of: pinned when the run starts, and held to until it ends.

runs/NAME/rewards.json    reward → file or module → sha256, as they are now; a selector that another package brought
                          stands beside them as selection.TYPE
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
    """What the run's rewards consist of; None where an older version of RAFT began it. Raises IntegrityError."""
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
            f"{path} does not say what the rewards consist of",
            got=error,
            hint="restore it from git; or remove it: then the last commit is asked",
        ) from error


def pin(run: Run, found: Sources) -> None:
    """From now on the run's rewards are these."""
    write_json(run.path / FILE, {"format": FORMAT, "rewards": found})


def check_pins(run: Run, found: Sources) -> None:
    """Raise ConfigError unless the rewards that were loaded are those of the run."""
    if changed := changes(read_pins(run) or {}, found):
        raise ConfigError(
            f"the code that scores or selects in run {run.name} is not what it began with",
            got="; ".join(changed),
            expected="the same code and data from the first iteration to the last",
            hint=f"bring back what changed, then raft resume {run.name}; or go on with what is there now, and let the "
            f"records say so: raft resume {run.name} --accept-reward-change",
        )


def changes(then: Sources, now: Sources) -> list[str]:
    """Of each reward that both have: which of its files and modules changed, in words."""
    return [
        f"{_called(name)}: {', '.join(different)}"
        for name in now
        if name in then and (different := list(_different(then[name], now[name])))
    ]


def changes_of(chain: Sequence[Commit]) -> list[tuple[int, str]]:
    """Iteration → what changed in the rewards before it was made, as the commits say it."""
    return [
        (after.iteration, told)
        for before, after in pairwise(chain)
        for told in changes(_of(before) or {}, _of(after) or {})
    ]


def _called(name: str) -> str:
    """A reward's name has no dot."""
    return name if "." in name else f"reward '{name}'"


def _of(commit: Commit) -> Sources | None:
    found: Sources | None = commit.content.get("rewards")
    return found


def _different(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for file in sorted(then.keys() | now.keys()):
        if then.get(file) != now.get(file):
            yield f"{file} {'changed' if file in then and file in now else 'is new' if file in now else 'is gone'}"
