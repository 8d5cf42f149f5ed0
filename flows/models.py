"""Find a policy by the name that a person types: ``RUN``, ``RUN@N``, or a registered model."""

import re
from pathlib import Path

from raft_core.errors import ConfigError, InputError, IntegrityError
from raft_core.records.names import RUN_NAME
from raft_core.records.overview import find_run, view_run
from raft_core.records.policy_ref import PolicyRef, policy_name, policy_ref
from raft_core.records.run import BASE, Run, read_chain, read_commit


def find_policy(workspace: Path, reference: str | None, tracking_uri: str) -> tuple[Run, int | None]:
    """The run and iteration that ``reference`` names; iteration None: the run's best.

    A name that is not a run of the workspace is looked up in MLflow's registry: ``MODEL`` (its alias ``candidate``),
    ``MODEL@ALIAS``, ``MODEL/VERSION``, also with ``models:/`` in front.

    Raises ConfigError where there is neither a run nor a model of that name, InputError for a registered model
    without that alias or version, IntegrityError if the run here is not the one that was registered.
    """
    if reference is None:
        return find_run(workspace, None), None
    name, _, number = reference.partition("@")
    if RUN_NAME.fullmatch(name) and (workspace / "runs" / name / "config.yaml").exists():
        return find_run(workspace, name), _iteration(reference, number) if number else None
    return _registered(workspace, reference, tracking_uri)


def find_model(workspace: Path, reference: str | None, tracking_uri: str) -> PolicyRef:
    """Like ``find_policy``, but a run alone means its best iteration. Raises InputError if there is no commit of it."""
    run, iteration = find_policy(workspace, reference, tracking_uri)
    last = len(read_chain(run)) - 2
    if iteration is None:
        iteration = view_run(run).best
    if iteration is None or not BASE <= iteration <= last:
        raise InputError(
            f"run {run.name} has no commit of iteration {iteration}"
            if iteration is not None
            else f"run {run.name} has no committed iteration yet",
            expected=f"-1 (the base) to {last}" if last >= BASE else "at least the base, committed",
            hint=f"raft show {run.name} lists the committed iterations",
        )
    return policy_ref(run, iteration)


def _registered(workspace: Path, reference: str, tracking_uri: str) -> tuple[Run, int]:
    from tasks.tracking.registry import ALIAS, numbers, origin

    name, mark, which = re.fullmatch(r"(?:models:/)?([^@/]*)([@/]?)(.*)", reference, re.DOTALL).groups()  # type: ignore[union-attr]
    version, alias = which if mark == "/" else None, which if mark == "@" else None
    found = origin(name, version, alias, tracking_uri) if name else None
    if found is None and name and (known := numbers(name, tracking_uri)) is not None:
        missing = f"version {version}" if version is not None else f"alias {alias or ALIAS}"
        withdrawn = f"; withdrawn: {', '.join(known.withdrawn)}" if known.withdrawn else ""
        raise InputError(
            f"registered model {name} has no {missing}",
            got=repr(reference),
            expected=f"one of its versions ({', '.join(known.versions) or 'it has none'}{withdrawn})",
            hint=f"name a version, {name}/VERSION, or a run, RUN@N",
        )
    if found is None:
        raise ConfigError(
            f"{reference!r} is neither a run nor a registered model",
            expected="RUN, RUN@N, MODEL, MODEL@ALIAS or MODEL/VERSION",
            hint="raft runs lists the runs of this workspace",
        )
    run = find_run(workspace, found.run)
    commit = read_commit(run, found.iteration)
    if commit is None or commit.digest != found.commit:
        raise IntegrityError(
            f"{policy_name(run.name, found.iteration)} in this workspace is not the policy that {reference} was "
            "registered from",
            got=f"commit {commit.digest}" if commit else "no such commit",
            expected=f"commit {found.commit}",
            hint=f"restore {run.path} from git, or name a run: RUN@N",
        )
    return run, found.iteration


def merge_policy(run: Run, iteration: int | None, out: Path) -> int:
    """Merge the adapter of ``iteration`` (None: the best) into its base and write the result to ``out``.

    Returns the iteration. Raises InputError if ``out`` exists, or if the policy is not an adapter.
    """
    from tasks.loop.prepare import committed_policy, initial_policy
    from tasks.promotion.plain_folder import write_plain

    if out.exists():
        raise InputError(f"{out} already exists", expected="a folder that does not exist yet", hint="name a new folder")
    if iteration is None:
        iteration = view_run(run).best
    if iteration is None or iteration == BASE or run.config.finetuning.lora is None:
        raise InputError(
            f"{policy_name(run.name, BASE if iteration is None else iteration)} is not an adapter: it is a plain "
            "checkpoint already",
            expected="an iteration of a run with finetuning.lora",
            hint=f"name an iteration, {run.name}@N" if run.config.finetuning.lora else "copy its policy/ folder",
        )
    write_plain(policy_ref(run, iteration), committed_policy(run, iteration, initial_policy(run)), out)
    return iteration


def _iteration(reference: str, number: str) -> int:
    if number == "base":
        return BASE
    if not number.isascii() or not number.isdigit():
        raise ConfigError(
            f"{reference} does not name an iteration",
            got=repr(number),
            expected="a number or base after the @",
            hint=f"write {reference.partition('@')[0]}@3",
        )
    return int(number)
