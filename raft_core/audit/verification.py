"""Verify that a run directory matches its commits. Every problem is listed, not only the first."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from yaml import YAMLError

from raft_core.audit.lineage import commit_fault, pointer, policy_facts, step_facts
from raft_core.config.loading import recorded_digest
from raft_core.errors import IntegrityError
from raft_core.files.artifacts import digest_of, file_digest, folder_files, model_digest, model_files
from raft_core.files.hashing import FileHashes
from raft_core.files.plain_yaml import read_yaml
from raft_core.forgetting.erasure import TOMBSTONE, Erased, read_tombstone, unfinished
from raft_core.promotion.ledger import Entry
from raft_core.records.collected import NAME as COLLECTED
from raft_core.records.collected import collected
from raft_core.records.run import BASE, Commit, Run, committed_iterations, linked, read_commit, read_events
from raft_core.types import content_id

Kind = Literal[
    "missing",
    "changed",
    "unreadable",
    "malformed",
    "broken_chain",
    "config",
    "returned",
    "pointer",
    "object",
    "registry",
    "ledger",
    "link",
]
"""``link``: a symbolic link in place of an output. ``returned``: erased rows are back. ``pointer``, ``object``,
``registry``, ``ledger``: DVC, MLflow or the ledger disagree with the commits (checked in tasks and flows)."""

_FINAL_TABLES = ("prompts", "samples", "scored", "selected")
"""Tables that are written once; ``quarantine`` is not one, since validation adds to it between steps."""


Digest = Callable[[Callable[[Path], str]], str]


@dataclass(frozen=True, slots=True)
class Problem:
    """One difference from the commits. ``iteration`` −1 is the base; None: it concerns no single iteration."""

    iteration: int | None
    kind: Kind
    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was verified. ``unseen``: what could not be verified, because it is not on this machine.

    ``erased``: outputs that lost rows on purpose and match their tombstone.
    """

    problems: tuple[Problem, ...]
    unseen: tuple[str, ...]
    num_commits: int
    num_outputs: int
    rehashed: bool
    erased: tuple[str, ...] = ()
    collected: tuple[str, ...] = ()
    """Weights that ``raft gc`` removed; everything that they were made from is still there."""

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Look:
    """How one run is verified, and the lists that this fills."""

    run: Run
    hashes: FileHashes | None
    problems: list[Problem] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)


def verify_run(
    run: Run, *, rehash: bool, base_policy: Path | None = None, hashes: FileHashes | None = None
) -> Verification:
    """Verify every commit, the chain, and every output: that it exists, and with ``rehash`` its bytes.

    ``base_policy``: folder of the initial policy, of which a run has no copy. An absent output whose DVC pointer exists
    is unseen, not missing. ``hashes``: shared by several verifications, so that files of several runs are read once.

    A last ``commit.json`` that was forged together with its seal is detected only with a digest that is kept elsewhere
    (git, the registry): compare it with ``lineage(run).links[0].commit``.
    """
    look = _Look(run, (hashes or FileHashes()) if rehash else None)
    if _nothing_committed(run):
        look.unseen.append(f"run {run.name}: it ended before its first commit, so nothing is recorded yet")
        return Verification((), tuple(look.unseen), 0, 0, rehash, (), ())
    commits: dict[int, Commit] = {}
    for number in range(BASE, max([BASE, *committed_iterations(run)]) + 1):
        commit = _commit(run, number, look.problems)
        if commit is not None:
            commits[number] = commit
    if look.hashes is not None:
        look.hashes.prime(_files(run, commits, base_policy))
    for number, commit in commits.items():
        look.problems.extend(_chain_problems(run, commits, number))
        look.problems.extend(_output_problems(look, commit))
    if BASE in commits:
        look.problems.extend(_base_problems(look, commits[BASE], base_policy))
    num_outputs = sum(len(commit.outputs) for commit in commits.values())
    return Verification(
        tuple(look.problems),
        tuple(look.unseen),
        len(commits),
        num_outputs,
        rehash,
        tuple(look.erased),
        tuple(look.collected),
    )


def _nothing_committed(run: Run) -> bool:
    """Whether a run ended before its first step was finished, as its log and its folders say."""
    if committed_iterations(run) or (run.folder(BASE) / "commit.json").exists():
        return False
    with suppress(IntegrityError):
        return not any(event["kind"] in ("step", "projected", "finished") for event in read_events(run))
    return False


def unordered_erasures(run: Run, entries: Sequence[Entry]) -> list[Problem]:
    """Tombstones that no entry of the ledger names: a forged tombstone would let any change pass as an erasure."""
    ordered = {str(entry.body.get("tombstone")) for entry in entries if entry.kind == "erased"}
    problems = []
    for number in (BASE, *committed_iterations(run)):
        path = run.folder(number) / TOMBSTONE
        with suppress(IntegrityError):  # an edited one is reported separately
            tombstone = read_tombstone(path.parent)
            if tombstone is not None and tombstone.digest not in ordered:
                message = (
                    f"the ledger has no erasure for {path}, sha256 {tombstone.digest}: the tombstone is forged, the "
                    "ledger is missing, or raft lineage forget was interrupted (then run it again)"
                )
                problems.append(Problem(number, "ledger", path, message))
    return problems


def _files(run: Run, commits: Mapping[int, Commit], base_policy: Path | None) -> Iterator[Path]:
    """Every file of every output, to be hashed in parallel; faults are reported when an output is checked."""
    roots = [(run.folder(number) / name, folder_files) for number, commit in commits.items() for name in commit.outputs]
    for root, files in [*roots, *([(base_policy, model_files)] if base_policy else [])]:
        if not root.is_dir():
            yield root
            continue
        with suppress(IntegrityError):
            yield from files(root)


def _commit(run: Run, number: int, problems: list[Problem]) -> Commit | None:
    path = run.folder(number) / "commit.json"
    try:
        commit = read_commit(run, number)
    except (IntegrityError, OSError) as error:
        problems.append(Problem(number, "malformed", path, str(error)))
        return None
    if commit is None:
        problems.append(Problem(number, "missing", path, f"missing commit: {path}"))
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
        yield broken(
            f"the commit before {path} was edited: it has sha256 {expected}, but {content['parent']} is recorded"
        )
    if content["config"] != (digest := _config_digest(run)):
        message = f"{path} records configuration {content['config']}, but {run.path / 'config.yaml'} is {digest}"
        yield Problem(number, "config", path, f"{message}: it was edited, or written by another version of raft")
    if facts.identity != content_id("policy", facts.digest, facts.base):
        yield broken(f"the identity of the policy in {path} does not match its digests")
    made = content["outputs"].get("policy", None if number > BASE else facts.digest)
    if made != facts.digest:
        yield broken(f"{path} names policy {facts.digest}, but its output policy is {made}")
    earlier = {policy_facts(c.content).identity for n, c in commits.items() if n < number}
    if number - 1 in commits and content["sampled_from"] not in earlier:
        yield broken(f"{path} was sampled from policy {content['sampled_from']}, which no commit before it made")
    if facts.base and BASE in commits and number > BASE and facts.base != policy_facts(commits[BASE].content).digest:
        yield broken(f"the adapter of {path} belongs to another base: {facts.base}")
    yield from map(broken, _step_faults(content, facts.identity))


def _config_digest(run: Run) -> str:
    """Digest of ``config.yaml`` as written, without today's defaults, so that records stay valid in later versions."""
    try:
        return recorded_digest(read_yaml(run.path / "config.yaml"))
    except (OSError, YAMLError, ValueError, TypeError, AttributeError) as error:
        return f"unreadable ({type(error).__name__})"


def _step_faults(content: Mapping[str, Any], made: str) -> Iterator[str]:
    """Steps whose inputs or outputs differ from what is committed."""
    outputs = content["outputs"]
    for step, record in step_facts(content).items():
        expected = made if step == "evaluate" else content["sampled_from"]
        if (policy := record.inputs.get("policy", expected)) != expected:
            yield f"step {step} used policy {policy}, expected {expected}"
        for name, digest in record.outputs.items():
            if (committed := outputs.get(f"tables/{name}.parquet", outputs.get(name, digest))) != digest:
                yield f"step {step} made {name} {digest}, but {committed} is committed"
        for name, read in record.inputs.items() if step != "evaluate" else ():
            if name in _FINAL_TABLES and (committed := outputs.get(f"tables/{name}.parquet", read)) != read:
                yield f"step {step} read {name} {read}, but {committed} is committed"


def _output_problems(look: _Look, commit: Commit) -> Iterator[Problem]:
    folder, number = look.run.folder(commit.iteration), commit.iteration
    try:
        tombstone = read_tombstone(folder)
    except IntegrityError as error:
        yield Problem(number, "malformed", folder / TOMBSTONE, str(error))
        tombstone = None
    if tombstone is not None and tombstone.commit != commit.digest:
        yield Problem(
            number, "malformed", folder / TOMBSTONE, f"the tombstone belongs to another commit: {folder / TOMBSTONE}"
        )
        tombstone = None
    try:
        removed = collected(folder)
    except IntegrityError as error:
        yield Problem(number, "malformed", folder / COLLECTED, str(error))
        removed = {}
    for name, expected in commit.outputs.items():
        path = folder / name
        if link := linked(look.run, path):
            yield Problem(
                number, "link", link, f"symbolic link in a run: {link}; replace it with the file or folder it points to"
            )
        elif path.exists():
            yield from _changed(look, number, path, expected, tombstone.outputs.get(name) if tombstone else None)
        elif removed.get(name) == expected:
            look.collected.append(f"{path}: removed by raft gc; it had sha256 {expected}")
        elif found := pointer(folder, name):
            look.unseen.append(f"{path} (restore it: dvc pull {found})")
        else:
            yield Problem(number, "missing", path, f"missing: {path}, sha256 {expected}")


def _base_problems(look: _Look, commit: Commit, path: Path | None) -> Iterator[Problem]:
    facts = policy_facts(commit.content)
    if "policy" in commit.outputs:
        return
    if path is None or not path.exists():
        look.unseen.append(f"the initial policy {facts.source} (sha256 {facts.digest})")
    else:
        yield from _changed(look, BASE, path, facts.digest, None, partial(model_digest, path, facts.digest))


def _changed(
    look: _Look, number: int, path: Path, expected: str, erased: Erased | None, digest: Digest | None = None
) -> Iterator[Problem]:
    """``digest``: computes the digest of ``path`` with a function that hashes one file; default: of all its files."""
    if erased is not None:
        look.erased.append(f"{path}: {erased.rows:,} rows were erased; it had sha256 {erased.was}")
    if look.hashes is None:
        return
    try:
        got = (digest or partial(digest_of, path))(look.hashes.sha256)
    except (IntegrityError, OSError, ValueError) as error:
        yield Problem(number, "unreadable", path, f"unreadable: {path}: {error}")
        return
    if erased is not None and erased.was == expected:
        if got == expected or unfinished(path, erased):
            yield Problem(number, "returned", path, f"erased rows are back: {path}")
            return
        expected = erased.now
    if got != expected:
        yield Problem(number, "changed", path, f"changed bytes: {path} has sha256 {got}, expected {expected}")
