"""Everything that an alignment checks before it samples, without starting one. Writes nothing, loads no weights."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError, ExampleError, InputError, RaftError
from raft_core.policies.base import modality
from raft_core.prompts.splits import draw, load_prompts
from raft_core.references import resolve
from raft_core.rewards.load import check_rewards
from raft_core.types import Prompt
from tasks.loop.prepare import allowed_splits
from tasks.loop.signal import check_signal

Checked = TypeVar("Checked")
ANY_PROMPT = Prompt.of("Hello")
"""Used if the prompt files cannot be read, so that the policy is checked anyway."""


@dataclass(frozen=True, slots=True)
class Examination:
    """``warnings``: what works but looks wrong. ``unprepared``: assets of examples that are not on this machine yet, so
    they were not checked. ``faults``: what keeps the configuration from running."""

    warnings: list[str] = field(default_factory=list)
    unprepared: list[str] = field(default_factory=list)
    faults: list[RaftError] = field(default_factory=list)

    def part(self, check: Callable[[], Checked]) -> Checked | None:
        """The result of ``check``; None if it failed. Each distinct fault is kept once."""
        try:
            return check()
        except ExampleError as error:
            if error.what not in self.unprepared:
                self.unprepared.append(error.what)
        except RaftError as error:
            if str(error) not in map(str, self.faults):
                self.faults.append(error)
        return None


def examine(config: RaftConfig, workspace: Path, also: Sequence[Callable[[], object]] = ()) -> Examination:
    """Check everything that ``config`` names, then run the checks in ``also``.

    Raises ConfigError or InputError that lists every independent fault.
    """
    found = Examination()
    splits = found.part(lambda: allowed_splits(config, workspace)[0])
    if splits is None:
        _each_file(config, found)
    else:
        drawn = config.sampling.prompts_per_iteration
        found.part(lambda: draw(splits.train, drawn, seed=config.seed, iteration=0))
    prompts = [*splits.train, *splits.held_out, *splits.promotion] if splits else [ANY_PROMPT]
    checkpoint = modality(config.policy.type).checkpoint
    found.part(lambda: checkpoint.check_settings(config))
    found.warnings.extend(found.part(lambda: checkpoint.check(config.policy, prompts, config.sampling)) or ())
    rewards = found.part(lambda: check_rewards(config.scoring, weights=False))
    if rewards and splits:
        found.warnings.extend(found.part(lambda: check_signal(config, rewards, splits.train)) or ())
    for check in (lambda: _check_writable(workspace), *also):
        found.part(check)
    if found.faults:
        raise _together(found.faults)
    return found


def _each_file(config: RaftConfig, found: Examination) -> None:
    """Check each prompt file on its own, so that a fault in one does not hide faults in the others."""
    prompts, texts = config.prompts, config.evaluation.perplexity_text
    for reference in (prompts.train, prompts.held_out, prompts.promotion):
        if reference is not None:
            found.part(partial(_load_prompts, reference, prompts.text_column))
    if texts is not None:
        found.part(partial(_load_prompts, texts, "text"))


def _load_prompts(reference: str, column: str) -> list[Prompt]:
    return load_prompts(resolve(reference), column)


def _check_writable(workspace: Path) -> None:
    """Check that ``workspace``/runs can be written to."""
    place = workspace / "runs"
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(
            f"cannot write runs to the workspace {workspace}",
            got=f"{place} is not a writable folder",
            hint="make it writable, or set RAFT_WORKSPACE to another folder",
        )


def _together(faults: list[RaftError]) -> RaftError:
    (first, *others) = faults
    if others:
        listed = "\n".join("- " + str(fault).replace("\n", "\n  ") for fault in faults)
        return ConfigError(
            f"the configuration has {len(faults)} faults:\n{listed}", hint="correct each one as described"
        )
    if isinstance(first, ConfigError | InputError):
        return first
    return ConfigError(first.what, got=first.got, expected=first.expected, hint=first.hint)
