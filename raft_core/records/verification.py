"""Does a run directory hold what its commits say? Every problem is listed, not only the first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raft_core.errors import IntegrityError
from raft_core.loading import config_digest
from raft_core.records.artifacts import digest_of, file_digest
from raft_core.records.lineage import commit_fault, pointer, policy_facts, step_facts
from raft_core.records.run import BASE, Commit, Run, read_commit
from raft_core.types import content_id

Kind = Literal["missing", "changed", "unreadable", "malformed", "broken_chain", "config"]

_FINAL_TABLES = ("prompts", "samples", "scored", "selected")
"""Tables that are written once; validation adds to ``quarantine`` between the steps that read it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as the commits say. ``iteration`` −1 is the base."""

    iteration: int
    kind: Kind
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at. ``unseen``: what could not be, since it lies elsewhere."""

    problems: tuple[Problem, ...]
    unseen: tuple[str, ...]
    num_commits: int
    num_outputs: int
    rehashed: bool

    @property
    def ok(self) -> bool:
        """Whether nothing that was looked at is wrong."""
        return not self.problems


def verify_run(run: Run, *, rehash: bool, base_policy: Path | None = None) -> Verification:
    """Check every commit, the chain between them, and every output: its presence, with ``rehash`` its bytes.

    ``base_policy``: where the initial policy lies, since a run does not hold a copy of it. Outputs
    that are absent while their DVC pointer is there are unseen, not missing.

    A last ``commit.json`` that was forged with its seal shows only against a digest kept elsewhere
    (git, the registry): compare with ``lineage(run).links[0].commit``.
    """
    numbers = _committed(run)
    commits: dict[int, Commit] = {}
    problems: list[Problem] = []
    unseen: list[str] = []
    for number in range(BASE, max([BASE, *numbers]) + 1):
        commit = _commit(run, number, problems)
        if commit is not None:
            commits[number] = commit
    for number, commit in commits.items():
        problems += _chain_problems(run, commits, number)
        problems += _output_problems(run, commit, rehash, unseen)
    if BASE in commits:
        problems += _base_problems(commits[BASE], base_policy, rehash, unseen)
    num_outputs = sum(len(commit.outputs) for commit in commits.values())
    return Verification(tuple(problems), tuple(unseen), len(commits), num_outputs, rehash)


def _committed(run: Run) -> list[int]:
    folders = run.path.glob("iterations/*/commit.json")
    return sorted(int(path.parent.name) for path in folders if path.parent.name.isdecimal())


def _commit(run: Run, number: int, problems: list[Problem]) -> Commit | None:
    path = run.folder(number) / "commit.json"
    try:
        commit = read_commit(run, number)
    except (IntegrityError, OSError) as error:
        problems.append(Problem(number, "malformed", path, str(error)))
        return None
    if commit is None:
        problems.append(Problem(number, "missing", path, f"no commit: {path}"))
    elif fault := commit_fault(commit.content):
        problems.append(Problem(number, "malformed", path, f"edited or foreign commit: {path}: {fault}"))
    else:
        return commit
    return None


def _chain_problems(run: Run, commits: Mapping[int, Commit], number: int) -> Iterator[Problem]:
    content, path = commits[number].content, run.folder(number) / "commit.json"
    facts = policy_facts(content)

    def broken(message: str) -> Problem:
        return Problem(number, "broken_chain", path, message)

    before = run.folder(number - 1) / "commit.json" if number > BASE else None
    expected = file_digest(before) if before and before.is_file() else None
    if content["parent"] != expected:
        yield broken(f"the commit before {path} was edited: it has sha256 {expected}, named is {content['parent']}")
    if content["config"] != (digest := config_digest(run.config)):
        message = f"made under configuration {content['config']}, {run.path / 'config.yaml'} is {digest}"
        yield Problem(number, "config", path, f"{message}: it was edited, or written by another version of raft")
    if facts.identity != content_id("policy", facts.digest, facts.base):
        yield broken(f"the policy's identity in {path} is not that of its digests")
    made = content["outputs"].get("policy", None if number > BASE else facts.digest)
    if made != facts.digest:
        yield broken(f"{path} names policy {facts.digest}, but its output is {made}")
    earlier = {policy_facts(c.content).identity for n, c in commits.items() if n < number}
    if number - 1 in commits and content["sampled_from"] not in earlier:
        yield broken(f"{path} was sampled from {content['sampled_from']}, a policy that no commit before it made")
    if facts.base and BASE in commits and number > BASE and facts.base != policy_facts(commits[BASE].content).digest:
        yield broken(f"the adapter of {path} was trained on another base: {facts.base}")
    yield from map(broken, _step_faults(content, facts.identity))


def _step_faults(content: Mapping[str, Any], made: str) -> Iterator[str]:
    """Steps that read or wrote something else than what is committed."""
    outputs = content["outputs"]
    for step, record in step_facts(content).items():
        expected = made if step == "evaluate" else content["sampled_from"]
        if (policy := record.inputs.get("policy", expected)) != expected:
            yield f"step {step} worked on policy {policy}, not on {expected}"
        for name, digest in record.outputs.items():
            if (committed := outputs.get(f"tables/{name}.parquet", outputs.get(name, digest))) != digest:
                yield f"step {step} made {name} {digest}, but {committed} is committed"
        for name, read in record.inputs.items() if step != "evaluate" else ():
            if name in _FINAL_TABLES and (committed := outputs.get(f"tables/{name}.parquet", read)) != read:
                yield f"step {step} read {name} {read}, but {committed} is committed"


def _output_problems(run: Run, commit: Commit, rehash: bool, unseen: list[str]) -> Iterator[Problem]:
    folder, number = run.folder(commit.iteration), commit.iteration
    for name, expected in commit.outputs.items():
        path = folder / name
        if path.exists():
            yield from _changed(number, path, expected) if rehash else ()
        elif found := pointer(folder, name):
            unseen.append(f"{path} (bring it back: dvc pull {found})")
        else:
            yield Problem(number, "missing", path, f"missing: {path}, sha256 {expected}")


def _base_problems(commit: Commit, path: Path | None, rehash: bool, unseen: list[str]) -> Iterator[Problem]:
    facts = policy_facts(commit.content)
    if "policy" in commit.outputs:
        return
    if path is None or not path.exists():
        unseen.append(f"the initial policy {facts.source} (sha256 {facts.digest})")
    elif rehash:
        yield from _changed(BASE, path, facts.digest)


def _changed(number: int, path: Path, expected: str) -> Iterator[Problem]:
    try:
        got = digest_of(path)
    except (IntegrityError, OSError) as error:
        yield Problem(number, "unreadable", path, f"cannot be read: {path}: {error}")
        return
    if got != expected:
        yield Problem(number, "changed", path, f"changed bytes: {path}, sha256 {got} instead of {expected}")
