"""Completions of the same held-out prompts before and after. Model output is printed without control characters."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from flows.text import harmless, number
from raft_core.errors import ConfigError
from raft_core.records.overview import view_run
from raft_core.records.run import BASE, Run, read_commit

MAX_CHARS = 600


@dataclass(frozen=True, slots=True)
class Pair:
    """One held-out prompt with its completion under the base and under a later iteration."""

    prompt: str
    before: str
    reward_before: float | None
    after: str
    reward_after: float | None

    def as_json(self) -> dict[str, Any]:
        """One entry of ``raft samples --json``."""
        return asdict(self)


def read_pairs(run: Run, iteration: int | None, count: int) -> tuple[int, list[Pair]]:
    """The first ``count`` held-out prompts, whose order is random, with both completions.

    ``iteration`` None: the best one, or the last one while none is best yet. Raises ConfigError for an
    iteration that is not finished.
    """
    if iteration is None:
        view = view_run(run)
        last = view.rows[-1]["iteration"] if view.rows else BASE
        iteration = view.best if view.best not in (None, BASE) else last
    for wanted in (BASE, iteration):
        if read_commit(run, wanted) is None:
            label = "the base" if wanted == BASE else f"iteration {wanted}"
            raise ConfigError(
                f"{label} of run {run.name} is not finished", hint=f"raft show {run.name} lists the finished iterations"
            )
    before, after = _evaluation(run, BASE), _evaluation(run, iteration)
    shared = [prompt_id for prompt_id in before if prompt_id in after][:count]
    return iteration, [
        Pair(
            before[key]["prompt"],
            before[key]["completion"],
            before[key]["reward"],
            after[key]["completion"],
            after[key]["reward"],
        )
        for key in shared
    ]


def _evaluation(run: Run, iteration: int) -> dict[str, dict[str, Any]]:
    from raft_core.records.tables import EVALUATION, read_table

    table = read_table(
        run.table(iteration, "evaluation"), EVALUATION, columns=["prompt_id", "prompt", "completion", "reward"]
    )
    return {row["prompt_id"]: row for row in table.to_pylist()}


def show_pairs(pairs: Sequence[Pair], iteration: int) -> Table:
    """Prompt, before and after, with their rewards."""
    table = Table(header_style="bold", padding=(0, 1), show_lines=True)
    table.add_column("prompt", ratio=2)
    table.add_column("base", ratio=3)
    table.add_column("reward", justify="right", no_wrap=True)
    table.add_column(f"iteration {iteration}", ratio=3)
    table.add_column("reward", justify="right", no_wrap=True)
    for pair in pairs:
        better = (pair.reward_after or 0.0) > (pair.reward_before or 0.0)
        table.add_row(
            Text(harmless(pair.prompt, MAX_CHARS)),
            Text(harmless(pair.before, MAX_CHARS)),
            Text(number(pair.reward_before), style="dim"),
            Text(harmless(pair.after, MAX_CHARS)),
            Text(number(pair.reward_after), style="green" if better else "red"),
        )
    return table
