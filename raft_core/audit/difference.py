"""What differs between two policies: settings, code, prompts, samples, rewards, and from which iteration on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.audit.lineage import step_facts
from raft_core.config.loading import computed_part
from raft_core.records.policy_ref import PolicyRef
from raft_core.records.run import BASE, Commit, Run, differences, read_chain, read_events
from raft_core.records.tables import SCHEMAS, read_table

IDS = {"prompts": "prompt_id", "samples": "sample_id", "selected": "sample_id"}
"""Tables that are compared, and the column that names a row."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many rows of two tables have ids in both, and in one alone."""

    both: int
    only_a: int
    only_b: int


@dataclass(frozen=True, slots=True)
class Rewards:
    """Samples that both runs scored: how many rewards differ, the largest difference, and each run's mean reward."""

    both: int
    differ: int
    largest: float
    mean_a: float | None
    mean_b: float | None


@dataclass(frozen=True, slots=True)
class Pass:
    """One iteration of both runs. ``same``: its commits are the same bytes. ``code``: steps whose code differs.

    A table that is not on this machine is None in ``tables``, and so are ``rewards`` without the scores.
    """

    iteration: int
    same: bool
    tables: Mapping[str, Overlap | None]
    rewards: Rewards | None
    code: tuple[str, ...]
    inputs: tuple[str, ...]
    """"step: name" of every input (rewards included) whose digest differs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two policies side by side. ``settings``: key → (in A, in B). ``ancestor``: the last iteration that made the same
    policy in both (−1: only the bases are the same, None: the bases differ)."""

    a: str
    b: str
    settings: Mapping[str, tuple[Any, Any]]
    git: tuple[str | None, str | None]
    numerics: Mapping[str, tuple[Any, Any]]
    base: tuple[str, str]
    ancestor: int | None
    passes: tuple[Pass, ...]
    trained_on: Overlap | None
    """Prompts with a selected sample, over all iterations; None: a table is not on this machine."""

    @property
    def same(self) -> bool:
        """Whether both are the same policy, made with the same settings and commits."""
        return self.a == self.b or (not self.settings and all(p.same for p in self.passes))


def difference(a: PolicyRef, b: PolicyRef) -> Difference:
    """Compare two committed policies. Raises IntegrityError where a chain of commits does not hold."""
    run_a, run_b = a.run, b.run
    chain_a, chain_b = read_chain(run_a)[: a.iteration + 2], read_chain(run_b)[: b.iteration + 2]
    made_a, made_b = ([commit.content["policy"]["identity"] for commit in chain] for chain in (chain_a, chain_b))
    same = 0
    while same < min(len(made_a), len(made_b)) and made_a[same] == made_b[same]:
        same += 1
    return Difference(
        a=str(a),
        b=str(b),
        settings=_pairs(computed_part(run_a.config), computed_part(run_b.config)),
        git=(_git(run_a), _git(run_b)),
        numerics=_pairs(chain_a[-1].content.get("numerics", {}), chain_b[-1].content.get("numerics", {})),
        base=(made_a[0], made_b[0]),
        ancestor=same - 2 if same else None,
        passes=tuple(_passes(run_a, chain_a, run_b, chain_b)),
        trained_on=_trained_on(run_a, chain_a, run_b, chain_b),
    )


def _passes(run_a: Run, chain_a: list[Commit], run_b: Run, chain_b: list[Commit]) -> Iterator[Pass]:
    for number in range(max(len(chain_a), len(chain_b)) - 1):
        a = chain_a[number + 1] if number + 1 < len(chain_a) else None
        b = chain_b[number + 1] if number + 1 < len(chain_b) else None
        if a is not None and b is not None and a.digest == b.digest:
            yield Pass(number, True, {}, None, (), ())
            continue
        tables = {name: _overlap(name, run_a, a, run_b, b) for name in IDS}
        code, inputs = _steps(a, b) if a is not None and b is not None else ((), ())
        yield Pass(number, False, tables, _rewards(run_a, a, run_b, b), code, inputs)


def _overlap(name: str, run_a: Run, a: Commit | None, run_b: Run, b: Commit | None) -> Overlap | None:
    ids_a, ids_b = _ids(run_a, a, name), _ids(run_b, b, name)
    return None if ids_a is None or ids_b is None else _count(ids_a, ids_b)


def _count(ids_a: pa.Array, ids_b: pa.Array) -> Overlap:
    both = pc.sum(pc.is_in(ids_a, value_set=ids_b)).as_py() or 0
    return Overlap(both, len(ids_a) - both, len(ids_b) - both)


def _ids(run: Run, commit: Commit | None, name: str, column: str | None = None) -> pa.Array | None:
    """Distinct ids of a table; empty if there is no such iteration, None if the table is not on this machine."""
    if commit is None:
        return pa.array([], pa.string())
    table = _column(run, commit, name, [column or IDS[name]])
    return None if table is None else pc.unique(table.column(0))


def _column(run: Run, commit: Commit, name: str, columns: list[str]) -> pa.Table | None:
    path = run.table(commit.iteration, name)
    if f"tables/{name}.parquet" not in commit.outputs or not path.is_file():
        return None
    return read_table(path, SCHEMAS[name], columns)


def _rewards(run_a: Run, a: Commit | None, run_b: Run, b: Commit | None) -> Rewards | None:
    tables = [
        None if commit is None else _column(run, commit, "scored", ["sample_id", "reward"])
        for run, commit in ((run_a, a), (run_b, b))
    ]
    means = [None if table is None else pc.mean(table["reward"]).as_py() for table in tables]
    if tables[0] is None or tables[1] is None:
        return None if a is not None and b is not None else Rewards(0, 0, 0.0, *means)
    position = pc.index_in(tables[0]["sample_id"], value_set=tables[1]["sample_id"].combine_chunks())
    known = pc.is_valid(position)
    mine = tables[0]["reward"].filter(known)
    theirs = tables[1]["reward"].take(position.filter(known))
    gap = pc.abs(pc.subtract(mine, theirs))
    differ = pc.or_(pc.xor(pc.is_null(mine), pc.is_null(theirs)), pc.fill_null(pc.greater(gap, 0), False))
    return Rewards(len(mine), pc.sum(differ).as_py() or 0, pc.max(gap).as_py() or 0.0, means[0], means[1])


def _steps(a: Commit, b: Commit) -> tuple[tuple[str, ...], tuple[str, ...]]:
    mine, theirs = step_facts(a.content), step_facts(b.content)
    shared = [name for name in mine if name in theirs]
    code = tuple(name for name in shared if mine[name].code != theirs[name].code)
    inputs = tuple(
        f"{step}: {name}"
        for step in shared
        for name, _, _ in differences(dict(mine[step].inputs), dict(theirs[step].inputs))
    )
    return code, inputs


def _trained_on(run_a: Run, chain_a: list[Commit], run_b: Run, chain_b: list[Commit]) -> Overlap | None:
    sides = []
    for run, chain in ((run_a, chain_a), (run_b, chain_b)):
        parts = [_ids(run, commit, "selected", "prompt_id") for commit in chain if commit.iteration != BASE]
        if any(part is None for part in parts):
            return None
        sides.append(pc.unique(pa.chunked_array(parts, pa.string())))
    return _count(*sides)


def _pairs(one: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    return {key: (here, there) for key, here, there in differences(one, other)}


def _git(run: Run) -> str | None:
    commits = [event["git_commit"] for event in read_events(run, "started") if event.get("git_commit")]
    return str(commits[-1]) if commits else None
