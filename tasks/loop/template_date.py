"""The date that a chat template prints: fixed when a run begins, and the same whenever and wherever it goes on."""

from pathlib import Path

from raft_core.config.run import RaftConfig
from raft_core.errors import InputError
from raft_core.policies.base import backend
from raft_core.records.run import Run, read_run


def dated(config: RaftConfig, folder: Path, today: str) -> RaftConfig:
    """``config`` with the date of the run in ``folder``; of a run that begins: ``today``, if its template prints one.

    The run's recorded configuration holds the date, so resume, reproduction and promotion render the same prompts.
    """
    if config.policy.template_date is not None:
        return config
    if (folder / "config.yaml").exists():
        return _on(config, read_run(folder).config.policy.template_date)
    return _on(config, today if backend(config.policy.type).asks_for_date(config.policy) else None)


def refuse_undated(run: Run) -> None:
    """Raise InputError for a run that began before dates were fixed, if its prompts would differ by the day.

    It cannot go on, nor be measured for a promotion; what is finished stays.
    """
    if backend(run.config.policy.type).asks_for_date(run.config.policy):
        raise InputError(
            f"run {run.name} was begun with a chat template that prints the date, and no date was fixed then",
            expected="policy.template_date in its config.yaml: its prompts would change in the middle of the run",
            hint="align again under another --name; a new run fixes the day on which it begins",
        )


def _on(config: RaftConfig, day: str | None) -> RaftConfig:
    if day is None:
        return config
    return config.model_copy(update={"policy": config.policy.model_copy(update={"template_date": day})})
