"""A policy by the name that a person gives it: ``RUN``, ``RUN@N``, or a registered model."""

from pathlib import Path

from flows.views.run import find_run, view_run
from raft_core.errors import ConfigError, InputError
from raft_core.records.run import BASE, Run


def find_policy(workspace: Path, reference: str | None, tracking_uri: str) -> tuple[Run, int | None]:
    """The run and iteration that ``reference`` means; iteration None: the run's best.

    Raises ConfigError where there is neither such a run nor such a registered model.
    """
    if reference is None:
        return find_run(workspace, None), None
    name, _, number = reference.partition("@")
    if (workspace / "runs" / name / "config.yaml").exists():
        return find_run(workspace, name), _iteration(reference, number) if number else None
    raise ConfigError(f"no run is called {name}", got=reference, do="raft runs lists them")


def merge_policy(run: Run, iteration: int | None, out: Path) -> int:
    """Write the policy that ``iteration`` (None: the best) made as a plain checkpoint; returns the iteration.

    Raises InputError if ``out`` exists, or if there is no adapter to merge.
    """
    from raft_core.policies.base import backend
    from tasks.prepare import committed_policy

    if out.exists():
        raise InputError(f"{out} exists", do="name a folder that does not")
    if iteration is None:
        iteration = view_run(run).best
    if iteration is None or iteration == BASE or run.config.finetuning.lora is None:
        raise InputError(
            "this policy is a plain checkpoint already", got=f"run {run.name}, iteration {iteration}",
            do="name an iteration: RUN@N" if run.config.finetuning.lora else "copy its policy/ folder",
        )  # fmt: skip
    modality = backend(run.config.policy.type)
    policy = committed_policy(run, iteration, modality.base_policy(run.config.policy))
    out.parent.mkdir(parents=True, exist_ok=True)
    modality.merge(policy, run.config.policy, out)
    return iteration


def _iteration(reference: str, number: str) -> int:
    if number == "base":
        return BASE
    if not number.isascii() or not number.isdigit():
        raise ConfigError("an iteration is a number, or base", got=reference, do="write RUN@3")
    return int(number)
