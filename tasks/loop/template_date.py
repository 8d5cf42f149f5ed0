"""The date that a chat template prints: fixed when a run starts, and the same whenever and wherever it is resumed."""

from pathlib import Path

from raft_core.config.run import RaftConfig
from raft_core.errors import InputError
from raft_core.policies.base import modality
from raft_core.records.run import Run, read_run


def dated(config: RaftConfig, folder: Path, today: str) -> RaftConfig:
    """``config`` with the date of the run in ``folder``; for a new run ``today``, if its template prints a date.

    The run records the date in its configuration, so resuming, reproducing and promoting it renders the same prompts.
    """
    if config.policy.template_date is not None:
        return config
    if (folder / "config.yaml").exists():
        return _on(config, read_run(folder).config.policy.template_date)
    return _on(config, today if modality(config.policy.type).checkpoint.asks_for_date(config.policy) else None)


def refuse_undated(run: Run) -> None:
    """Raise InputError for a run without a fixed date whose prompts contain the current date.

    It cannot be resumed or measured for a promotion; finished iterations stay.
    """
    if modality(run.config.policy.type).checkpoint.asks_for_date(run.config.policy):
        raise InputError(
            f"the chat template of run {run.name} prints the date, and the run has no fixed date",
            got="prompts that would change in the middle of the run",
            expected=f"policy.template_date in {run.path / 'config.yaml'}",
            hint="run raft align with another --name: a new run fixes the day on which it starts",
        )


def _on(config: RaftConfig, day: str | None) -> RaftConfig:
    if day is None:
        return config
    return config.model_copy(update={"policy": config.policy.model_copy(update={"template_date": day})})
