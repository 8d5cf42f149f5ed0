"""Where a policy comes from: the chain of commits from it back to the base and the first prompts.

Only reads. On a clone that holds pointers instead of tables and weights, what lies elsewhere is
named, and everything that ``commit.json`` and ``report.json`` say is still there.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import file_digest
from raft_core.files.plain_json import read_json
from raft_core.forgetting.erasure import Erased, read_tombstone
from raft_core.records.best import decision_of
from raft_core.records.run import BASE, Commit, Run, read_chain
from raft_core.records.tables import PROMPTS, read_table

POINTERS = {"tables": "tables.dvc", "policy": "policy.dvc"}
"""First part of an output's name → the pointer that brings it back, beside ``commit.json``."""
MANIFEST = "raft.json"
"""Of a plain transformers folder: which commit its weights came from."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IDENTITY = re.compile(r"[0-9a-f]{32,64}")


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A policy that another was trained from: digest of its commit, and its identity."""

    commit: str
    policy: str


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """The policy that an iteration made. ``base``: digest of the weights that an adapter belongs to."""

    identity: str
    digest: str
    base: str | None
    source: str | None
    """Of the base alone: what ``policy.model`` named."""
    ancestors: tuple[Ancestor, ...] = ()
    """Of a base alone whose folder RAFT wrote: the policy in it, and those that it was trained from, nearest first."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One step: its content address, and name → digest of what went in and came out.

    ``code``: digest of the modules that it ran; None in records that did not keep it.
    """

    key: str
    inputs: Mapping[str, str | None]
    outputs: Mapping[str, str]
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows that an iteration was made of; None where a table lies elsewhere or does not exist.

    ``erased``: name of a count → how many of its rows were erased on purpose since; only those that lost some.
    """

    prompts: int | None
    samples: int | None
    selected: int | None
    quarantined: int | None
    erased: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """One commit: what went in, what came out."""

    iteration: int
    commit: str
    """sha256 of ``commit.json``."""
    parent: str | None
    config: str
    policy: PolicyFacts
    sampled_from: str | None
    """Identity of the policy that was sampled and trained from; None for the base."""
    outputs: Mapping[str, str]
    steps: Mapping[str, StepFacts]
    counts: Counts
    prompt_sources: Mapping[str, int] | None
    """Source of the prompts → how many; None where the table lies elsewhere."""
    reward: float | None
    """Mean held-out reward of the policy that this iteration made."""
    elsewhere: tuple[str, ...]
    """Outputs that are not on this machine."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The chain, newest first; the last link is the base. ``chosen``: why it starts where it does."""

    run: str
    chosen: str
    links: tuple[Link, ...]


def lineage(run: Run, iteration: int | None = None) -> Lineage:
    """The chain from the policy that ``iteration`` made; None: the best that the run ended with, else the last.

    Raises IntegrityError where the chain does not hold, InputError if there is no such commit.
    """
    chain = read_chain(run)
    chosen = "asked for"
    if iteration is None:
        decision = decision_of(run)
        ended = decision is not None and not decision.go_on
        iteration = decision.best if decision is not None and ended else len(chain) - 2
        chosen = "best of the run" if ended else "last commit"
    if not BASE <= iteration < len(chain) - 1:
        raise InputError(
            f"run {run.name} has no commit of iteration {iteration}",
            expected=f"-1 (the base) to {len(chain) - 2}",
            hint=f"see raft show {run.name}",
        )
    return Lineage(run.name, chosen, tuple(_link(run, commit) for commit in reversed(chain[: iteration + 2])))


def pointer(folder: Path, output: str) -> Path | None:
    """The DVC pointer that brings ``output`` of an iteration's ``folder`` back, if there is one."""
    name = POINTERS.get(output.split("/", 1)[0])
    return folder / name if name and (folder / name).is_file() else None


def _link(run: Run, commit: Commit) -> Link:
    content, folder = commit.content, run.folder(commit.iteration)
    if fault := commit_fault(content):
        raise IntegrityError(
            f"edited or foreign commit: {folder / 'commit.json'}",
            got=fault,
            hint="restore it from git; nothing was changed",
        )
    prompts = run.table(commit.iteration, "prompts")
    return Link(
        iteration=commit.iteration,
        commit=commit.digest,
        parent=content["parent"],
        config=content["config"],
        policy=policy_facts(content),
        sampled_from=content["sampled_from"],
        outputs=commit.outputs,
        steps=step_facts(content),
        counts=_counts(run, commit),
        prompt_sources=_sources(prompts) if prompts.is_file() else None,
        reward=_reward(folder / "report.json"),
        elsewhere=tuple(name for name in commit.outputs if not (folder / name).exists()),
    )


def policy_facts(content: Mapping[str, Any]) -> PolicyFacts:
    """The ``policy`` of a commit's content."""
    policy = content["policy"]
    found = tuple(Ancestor(each["commit"], each["policy"]) for each in policy.get("ancestors", ()))
    return PolicyFacts(policy["identity"], policy["digest"], policy["base"], policy.get("source"), found)


def ancestors_of(folder: Path) -> tuple[Ancestor, ...]:
    """The policy that a plain folder was written from, and that one's own, as ``raft.json`` says; () without one."""
    try:
        said = read_json(folder / MANIFEST)
        found = tuple(Ancestor(each["commit"], each["policy"]) for each in (said, *said.get("ancestors", ())))
        named = all(_SHA256.fullmatch(each.commit) and _IDENTITY.fullmatch(each.policy) for each in found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    return found if named else ()


def ancestors(run: Run, iteration: int) -> Iterator[Ancestor]:
    """The policies that the one of ``iteration`` was trained from, the nearest first, and what its base was made of.

    Raises IntegrityError where the chain does not hold.
    """
    chain = read_chain(run)[: iteration + 2]
    wanted = chain[-1].content["sampled_from"]
    for commit in reversed(chain[:-1]):
        if policy_facts(commit.content).identity == wanted:
            yield Ancestor(commit.digest, wanted)
            wanted = commit.content["sampled_from"]
    yield from policy_facts(chain[0].content).ancestors


def step_facts(content: Mapping[str, Any]) -> dict[str, StepFacts]:
    """The ``steps`` of a commit's content."""
    return {
        name: StepFacts(step["key"], {**step.get("inputs", {})}, {**step["outputs"]}, step.get("code"))
        for name, step in content["steps"].items()
    }


def commit_fault(content: Mapping[str, Any]) -> str | None:
    """Why a commit's content cannot be followed; None if it can."""
    try:
        facts = policy_facts(content)
        texts = [facts.identity, facts.digest, content["config"], *content["steps"]]
        outputs = content["outputs"].items()
        step_facts(content)
        known = [content[name] for name in ("parent", "sampled_from")] + [facts.base]
        known += [digest for each in facts.ancestors for digest in (each.commit, each.policy)]
    except (KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__} {error}"
    if not all(isinstance(t, str) for t in texts) or not all(t is None or isinstance(t, str) for t in known):
        return "a digest that is no text"
    for name, digest in outputs:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or not _SHA256.fullmatch(str(digest)):
            return f"output {name!r} with digest {digest!r}"
    return None


def _counts(run: Run, commit: Commit) -> Counts:
    tables = {"prompts": "prompts", "samples": "samples", "selected": "selected", "quarantined": "quarantine"}
    gone = _erased(run, commit)
    rows = {name: _rows(run, commit, table, gone) for name, table in tables.items()}
    lost = {name: row[1] for name, row in rows.items() if row is not None and row[1]}
    return Counts(**{name: None if row is None else sum(row) for name, row in rows.items()}, erased=lost)


def _erased(run: Run, commit: Commit) -> Mapping[str, Erased]:
    """Output → what was erased of it. A tombstone that was edited or is another commit's is for ``verify`` to tell."""
    with suppress(IntegrityError):
        tombstone = read_tombstone(run.folder(commit.iteration))
        if tombstone is not None and tombstone.commit == commit.digest:
            return tombstone.outputs
    return {}


def _rows(run: Run, commit: Commit, name: str, gone: Mapping[str, Erased]) -> tuple[int, int] | None:
    """Rows of a table that are there, and rows that were erased from it."""
    path, output = run.table(commit.iteration, name), f"tables/{name}.parquet"
    if output not in commit.outputs or not path.is_file():
        return None
    try:
        there = int(pq.read_metadata(path).num_rows)
        is_cut = output in gone and file_digest(path) == gone[output].now  # else: not yet, or the rows are back
        return there, gone[output].rows if is_cut else 0
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"not a readable table: {path}", got=error, hint="restore it with dvc pull") from error


def _sources(prompts: Path) -> dict[str, int]:
    column = read_table(prompts, PROMPTS, ["source"])["source"]
    return {row["values"]: row["counts"] for row in sorted(pc.value_counts(column).to_pylist(), key=str)}


def _reward(report: Path) -> float | None:
    try:
        reward: float | None = read_json(report)["reward"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return reward
