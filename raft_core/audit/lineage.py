"""Where a policy comes from: the chain of commits from it back to the base and the first prompts.

Nothing is written. On a clone that has pointers instead of tables and weights, absent outputs are listed, and
everything in ``commit.json`` and ``report.json`` is still available.
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
"""First part of an output's name → the DVC pointer beside ``commit.json`` that restores it."""
MANIFEST = "raft.json"
"""File in a plain transformers folder that names the commit its weights came from."""
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
    """Only for the base: the value of ``policy.model``."""
    ancestors: tuple[Ancestor, ...] = ()
    """Only for a base whose folder RAFT wrote: the policy in it and those that it was trained from, nearest first."""


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One step: its content address, and name → digest of its inputs and outputs.

    ``code``: digest of the modules that it ran; None in records of older versions.
    """

    key: str
    inputs: Mapping[str, str | None]
    outputs: Mapping[str, str]
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows that an iteration was made from; None if a table is not on this machine or does not exist.

    ``erased``: name of a count → rows erased on purpose since then; only counts that lost some.
    """

    prompts: int | None
    samples: int | None
    selected: int | None
    quarantined: int | None
    erased: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """One commit: its inputs and outputs."""

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
    """Source of the prompts → number of prompts; None if the table is not on this machine."""
    reward: float | None
    """Mean held-out reward of the policy that this iteration made."""
    elsewhere: tuple[str, ...]
    """Outputs that are not on this machine."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The chain, newest first; the last link is the base. ``chosen``: why it starts at its first link."""

    run: str
    chosen: str
    links: tuple[Link, ...]


def lineage(run: Run, iteration: int | None = None) -> Lineage:
    """The chain from the policy that ``iteration`` made; None: the best of a finished run, else the last commit.

    Raises IntegrityError if the chain is broken, InputError if there is no such commit.
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
            f"run {run.name} has no commit of iteration {iteration}" if chain else f"run {run.name} has no commit yet",
            expected=f"-1 (the base) to {len(chain) - 2}" if chain else "at least the base, committed",
            hint=f"raft show {run.name} lists the committed iterations",
        )
    return Lineage(run.name, chosen, tuple(_link(run, commit) for commit in reversed(chain[: iteration + 2])))


def pointer(folder: Path, output: str) -> Path | None:
    """The DVC pointer that restores ``output`` of an iteration's ``folder``, if there is one."""
    name = POINTERS.get(output.split("/", 1)[0])
    return folder / name if name and (folder / name).is_file() else None


def _link(run: Run, commit: Commit) -> Link:
    content, folder = commit.content, run.folder(commit.iteration)
    if fault := commit_fault(content):
        raise IntegrityError(
            f"edited or foreign commit: {folder / 'commit.json'}",
            got=fault,
            hint="restore it from git; this command changed nothing",
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
    """The policy that a plain folder was written from, then its ancestors, from ``raft.json``; () without that file."""
    try:
        said = read_json(folder / MANIFEST)
        found = tuple(Ancestor(each["commit"], each["policy"]) for each in (said, *said.get("ancestors", ())))
        named = all(_SHA256.fullmatch(each.commit) and _IDENTITY.fullmatch(each.policy) for each in found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    return found if named else ()


def ancestors(run: Run, iteration: int) -> Iterator[Ancestor]:
    """The policies that the one of ``iteration`` was trained from, nearest first, then the ancestors of its base.

    Raises IntegrityError if the chain is broken.
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
    """Why a commit's content is malformed; None if it is not."""
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
        return "a digest is not a string"
    for name, digest in outputs:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or not _SHA256.fullmatch(str(digest)):
            return f"invalid output {name!r} with digest {digest!r}"
    return None


def _counts(run: Run, commit: Commit) -> Counts:
    tables = {"prompts": "prompts", "samples": "samples", "selected": "selected", "quarantined": "quarantine"}
    erased = _erased(run, commit)
    rows = {name: _rows(run, commit, table, erased) for name, table in tables.items()}
    lost = {name: row[1] for name, row in rows.items() if row is not None and row[1]}
    return Counts(**{name: None if row is None else sum(row) for name, row in rows.items()}, erased=lost)


def _erased(run: Run, commit: Commit) -> Mapping[str, Erased]:
    """Output → what was erased from it. ``raft lineage verify`` reports tombstones that were edited."""
    with suppress(IntegrityError):
        tombstone = read_tombstone(run.folder(commit.iteration))
        if tombstone is not None and tombstone.commit == commit.digest:
            return tombstone.outputs
    return {}


def _rows(run: Run, commit: Commit, name: str, erased: Mapping[str, Erased]) -> tuple[int, int] | None:
    """Rows that a table has, and rows that were erased from it."""
    path, output = run.table(commit.iteration, name), f"tables/{name}.parquet"
    if output not in commit.outputs or not path.is_file():
        return None
    try:
        there = int(pq.read_metadata(path).num_rows)
        is_cut = output in erased and file_digest(path) == erased[output].now  # else not erased yet, or restored
        return there, erased[output].rows if is_cut else 0
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"unreadable table: {path}", got=error, hint="restore it with dvc pull") from error


def _sources(prompts: Path) -> dict[str, int]:
    column = read_table(prompts, PROMPTS, ["source"])["source"]
    return {row["values"]: row["counts"] for row in sorted(pc.value_counts(column).to_pylist(), key=str)}


def _reward(report: Path) -> float | None:
    try:
        reward: float | None = read_json(report)["reward"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return reward
