"""Find the iteration that made something: a model, a run, a file, or the first digits of a digest."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.models import find_policy
from raft_core.audit.lineage import step_facts
from raft_core.errors import ConfigError, InputError, IntegrityError, RaftError
from raft_core.files.artifacts import digest_of, file_digest, model_digest
from raft_core.files.plain_json import read_json
from raft_core.forgetting.erasure import digests_since
from raft_core.records.names import RUN_NAME
from raft_core.records.overview import run_paths
from raft_core.records.policy_ref import policy_label, policy_name
from raft_core.records.run import BASE, Run, read_commit, read_run

_DIGITS = re.compile(r"[0-9a-f]{6,64}")
_POINTED = re.compile(rb"md5: ([0-9a-f]{32}(?:\.dir)?)\b")
MOST_POINTER_BYTES = 10_000
MOST_PLACES = 5


@dataclass(frozen=True, slots=True)
class Origin:
    """``iteration`` None: the run's best. ``facts``: what is known about the reference, one line each."""

    run: Run
    iteration: int | None
    facts: tuple[str, ...] = ()


def find_origin(workspace: Path, reference: str | None, tracking_uri: str) -> Origin:
    """The run and iteration that ``reference`` belongs to.

    It is tried as a run, as an existing file or folder, as first digits of a digest, then in MLflow's registry.
    Raises ConfigError or InputError if it is unknown or ambiguous.
    """
    name = (reference or "").partition("@")[0]
    if reference is None or (RUN_NAME.fullmatch(name) and (workspace / "runs" / name / "config.yaml").exists()):
        return Origin(*find_policy(workspace, reference, tracking_uri))
    path = Path(reference)
    if path.exists():
        return _of_path(workspace, path)
    if _DIGITS.fullmatch(reference):
        found = _by_digits(workspace, reference)
        if found is not None:
            return found
    try:
        return Origin(*find_policy(workspace, reference, tracking_uri))
    except ConfigError as error:
        raise ConfigError(
            f"{reference!r} is not a run, a registered model, a file or a digest",
            hint="raft runs lists the runs of this workspace",
            expected="RUN, RUN@N, MODEL, MODEL@ALIAS, a file, or 6 or more digits of a commit, policy or file digest",
        ) from error


# -- a file ------------------------------------------------------------------------------------------


def _of_path(workspace: Path, path: Path) -> Origin:
    place = path.resolve()
    runs = (workspace / "runs").resolve()
    if place.is_relative_to(runs) and place != runs:
        parts = place.relative_to(runs).parts
        if RUN_NAME.fullmatch(parts[0]) and (runs / parts[0] / "config.yaml").is_file():
            return _inside(read_run(workspace / "runs" / parts[0]), parts[1:], place)
    if path.suffix == ".dvc" or path.name.endswith("-dvc.yaml"):
        return _of_pointer(workspace, path)
    digest = model_digest(path) if path.is_dir() else digest_of(path)
    found = _by_digits(workspace, digest, f"{path}: sha256 ")
    if found is None:
        raise InputError(
            f"no run of this workspace made {path}",
            got=f"sha256 {digest}",
            expected="the digest of an output of a commit",
            hint="name an unchanged file of a run; a file that was changed, or that no run made, has no lineage",
        )
    return found


def _inside(run: Run, parts: tuple[str, ...], path: Path) -> Origin:
    """A file or folder of a run; ``parts`` is its path below the run's folder."""
    number = _number(parts)
    if number is None:
        return Origin(run, None, (f"{path} belongs to run {run.name}",) if parts else ())
    commit = read_commit(run, number)
    if commit is None:
        raise InputError(
            f"{path} belongs to an iteration that is not committed",
            got=f"iteration {number} of run {run.name}",
            hint=f"finish it with raft resume {run.name}",
        )
    inner = "/".join(parts[1 if number == BASE and parts[0] == "base" else 2 :])
    if parts[0] == "merged":
        return Origin(run, number, (f"{path}: the policy of iteration {number} as a plain checkpoint",))
    facts = tuple(_output_facts(run, number, inner, path)) if inner else ()
    return Origin(run, number, facts)


def _number(parts: tuple[str, ...]) -> int | None:
    if parts[:1] == ("base",):
        return BASE
    if len(parts) > 1 and parts[0] in ("iterations", "merged") and parts[1].isdecimal():
        return int(parts[1])
    return None


def _output_facts(run: Run, number: int, inner: str, path: Path) -> Iterator[str]:
    """What an output is, whether its bytes match the commit, and which steps made and read it."""
    commit = read_commit(run, number)
    assert commit is not None
    where = f"{'the ' if number == BASE else ''}{policy_label(number)}"
    output = next((name for name in commit.outputs if inner == name or inner.startswith(f"{name}/")), None)
    if output is None:
        yield f"{path}: {inner} of {where}; its commit does not list it" + (
            f", sha256 {file_digest(path)}" if path.is_file() else ""
        )
        return
    whole = run.folder(number) / output
    expected = digests_since(run.folder(number), commit.outputs)[output]
    try:
        sound = digest_of(whole) == expected
    except IntegrityError:
        sound = False
    erased = " (rows were erased on purpose)" if expected != commit.outputs[output] else ""
    yield f"{path}: {output} of {where}, sha256 {expected}{erased}"
    yield "its bytes match the commit" if sound else "CHANGED: its bytes do not match the commit"
    digest, stem = commit.outputs[output], Path(output).stem
    steps = step_facts(commit.content)
    made = [name for name, step in steps.items() if digest in step.outputs.values()]
    read = [name for name, step in steps.items() if digest in step.inputs.values()]
    yield f"made by step {made[0] if made else 'select' if stem == 'selected' else '–'}" + (
        f", read by {', '.join(read)}" if read else ""
    )


def _of_pointer(workspace: Path, path: Path) -> Origin:
    found_md5 = _POINTED.search(path.read_bytes()[:MOST_POINTER_BYTES])
    if found_md5 is None:
        raise InputError(
            f"{path} is not a DVC pointer",
            expected="a line with md5",
            hint="name policy.dvc or tables.dvc of an iteration",
        )
    md5 = found_md5[1].decode()
    for run in run_paths(workspace):
        for pointer in sorted(run.glob("**/*.dvc")):
            if md5.encode() in pointer.read_bytes():
                found = _inside(read_run(run), pointer.relative_to(run).parts, pointer)
                return Origin(found.run, found.iteration, (f"{path}: DVC's pointer to md5 {md5}, as {pointer}",))
    raise InputError(
        f"no run of this workspace has the DVC pointer {path}",
        got=f"md5 {md5}",
        hint="get the run that it belongs to from git",
    )


# -- digits of a digest ------------------------------------------------------------------------------


def _by_digits(workspace: Path, digits: str, said: str = "") -> Origin | None:
    """The iteration whose commit has a digest, or lists an output with a digest, that begins with ``digits``.

    Commits are searched as bytes; only those that contain the digits are parsed.
    """
    found: dict[str, list[tuple[Path, int, str]]] = {}
    for path in run_paths(workspace):
        for place in (path / "base", *sorted(path.glob("iterations/*"))):
            file = place / "commit.json"
            if not file.is_file():
                continue
            itself = file_digest(file)
            if itself.startswith(digits) or f'"{digits}'.encode() in file.read_bytes():
                for digest, what in _digests(file, place, itself):
                    if digest.startswith(digits):
                        number = BASE if place.name == "base" else int(place.name)
                        found.setdefault(digest, []).append((path, number, what))
    if not found:
        return None
    if len(found) > 1:
        some = [f"{digest[:16]}… ({places[0][2]} of {_place(*places[0][:2])})" for digest, places in found.items()]
        raise InputError(
            f"{len(found)} digests begin with {digits!r}", got=", ".join(some[:MOST_PLACES]), hint="give more digits"
        )
    ((digest, places),) = found.items()
    path, number, what = places[0]
    others = [_place(*place[:2]) for place in places[1:]]
    also = f"; also of {', '.join(others[:MOST_PLACES])}" if others else ""
    return Origin(read_run(path), number, (f"{said}{digest}: {what} of {_place(path, number)}{also}",))


def _digests(file: Path, folder: Path, itself: str) -> Iterator[tuple[str, str]]:
    """Digests of a commit and of everything that it made, each once. Inputs belong to the commit that made them."""
    yield itself, "the commit"
    try:
        content: dict[str, Any] = read_json(file)
        policy, outputs = content["policy"], content["outputs"]
        since = digests_since(folder, outputs)
        yield policy["identity"], "the policy"
        if policy["digest"] not in outputs.values():
            yield policy["digest"], "the policy"
        for name, digest in outputs.items():
            yield digest, name
            if since[name] != digest:
                yield since[name], f"{name} after rows were erased"
    except (ValueError, KeyError, TypeError, AttributeError, RaftError):
        return


def _place(run: Path, number: int) -> str:
    return policy_name(run.name, number)
