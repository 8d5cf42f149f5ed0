"""A policy by the name that a person gives it: ``RUN``, ``RUN@N``, or a registered model."""

import re
from pathlib import Path

from raft_core.errors import ConfigError, InputError, IntegrityError
from raft_core.records.names import RUN_NAME
from raft_core.records.overview import find_run, view_run
from raft_core.records.run import BASE, Run, read_chain, read_commit


def find_policy(workspace: Path, reference: str | None, tracking_uri: str) -> tuple[Run, int | None]:
    """The run and iteration that ``reference`` means; iteration None: the run's best.

    A name that is no run is looked up in MLflow's registry: ``MODEL`` (its alias ``candidate``),
    ``MODEL@ALIAS``, ``MODEL/VERSION``, also with ``models:/`` in front.

    Raises ConfigError where there is neither, InputError for a registered model without that alias or version,
    IntegrityError if the run is not the one registered.
    """
    if reference is None:
        return find_run(workspace, None), None
    name, _, number = reference.partition("@")
    if RUN_NAME.fullmatch(name) and (workspace / "runs" / name / "config.yaml").exists():
        return find_run(workspace, name), _iteration(reference, number) if number else None
    return _registered(workspace, reference, tracking_uri)


def find_model(workspace: Path, reference: str | None, tracking_uri: str) -> tuple[Run, int]:
    """Like ``find_policy``, but a run stands for its best committed iteration. Raises InputError if it has none."""
    run, iteration = find_policy(workspace, reference, tracking_uri)
    last = len(read_chain(run)) - 2
    if iteration is None:
        iteration = view_run(run).best
    if iteration is None or not BASE <= iteration <= last:
        raise InputError(
            f"run {run.name} has no commit of iteration {iteration}",
            expected=f"-1 (the base) to {last}",
            hint=f"see raft show {run.name}",
        )
    return run, iteration


def _registered(workspace: Path, reference: str, tracking_uri: str) -> tuple[Run, int]:
    from tasks.tracking.registry import ALIAS, numbers, origin

    name, mark, which = re.fullmatch(r"(?:models:/)?([^@/]*)([@/]?)(.*)", reference, re.DOTALL).groups()  # type: ignore[union-attr]
    version, alias = which if mark == "/" else None, which if mark == "@" else None
    found = origin(name, version, alias, tracking_uri) if name else None
    if found is None and name and (known := numbers(name, tracking_uri)) is not None:
        missing = f"version {version}" if version is not None else f"alias {alias or ALIAS}"
        gone = f" (withdrawn: {', '.join(known.withdrawn)})" if known.withdrawn else ""
        raise InputError(
            f"model {name} has no {missing}; its versions are {', '.join(known.versions) or 'none'}{gone}",
            got=repr(reference),
            hint=f"name a version, {name}/VERSION, or a run, RUN@N",
        )
    if found is None:
        raise ConfigError(
            "neither a run nor a registered model",
            got=repr(reference),
            expected="RUN, RUN@N, MODEL or MODEL@ALIAS",
            hint="raft runs lists the runs of this folder",
        )
    run = find_run(workspace, found.run)
    commit = read_commit(run, found.iteration)
    if commit is None or commit.digest != found.commit:
        raise IntegrityError(
            f"run {run.name} in this folder is not the one that {reference} was registered from",
            got=f"commit {commit.digest if commit else 'none'} of iteration {found.iteration}",
            expected=f"commit {found.commit}",
            hint="get that run's folder from git, or name a RUN",
        )
    return run, found.iteration


def merge_policy(run: Run, iteration: int | None, out: Path) -> int:
    """Write the policy that ``iteration`` (None: the best) made as a plain checkpoint; returns the iteration.

    Raises InputError if ``out`` exists, or if there is no adapter to merge.
    """
    from tasks.loop.prepare import committed_policy, initial_policy
    from tasks.promotion.plain_folder import write_plain

    if out.exists():
        raise InputError(f"{out} exists", hint="name a folder that does not")
    if iteration is None:
        iteration = view_run(run).best
    if iteration is None or iteration == BASE or run.config.finetuning.lora is None:
        raise InputError(
            "this policy is a plain checkpoint already",
            got=f"run {run.name}, iteration {iteration}",
            hint="name an iteration: RUN@N" if run.config.finetuning.lora else "copy its policy/ folder",
        )
    policy = committed_policy(run, iteration, initial_policy(run))
    write_plain(run, iteration, policy, out)
    return iteration


def _iteration(reference: str, number: str) -> int:
    if number == "base":
        return BASE
    if not number.isascii() or not number.isdigit():
        raise ConfigError("an iteration is a number, or base", got=reference, hint="write RUN@3")
    return int(number)
