"""Prepare examples with progress: a bar or a line for each stage that has work to do."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from flows.process.progress import Advance, Reporter
from raft_core import examples
from raft_core.examples import Progress, Receipt
from raft_core.examples.presets import EXAMPLES

TICK_S = 1.0


def prepare_example(example: str, watching: Reporter, stages: Sequence[str] | None = None) -> dict[str, Receipt]:
    """``examples.prepare`` with progress. Stages that are prepared already print nothing."""
    if example not in EXAMPLES:
        return examples.prepare(example)  # raises an error that lists the examples
    receipts: dict[str, Receipt] = {}
    for stage in stages or EXAMPLES[example].stages:
        with ExitStack() as shown:
            progress = _shown(watching, f"{example} · prepare {stage}", shown)
            receipts |= examples.prepare(example, stages=[stage], progress=progress)
    return receipts


def _shown(watching: Reporter, label: str, stack: ExitStack) -> Progress:
    """Print each line; the first one starts the step, which ends with ``stack``."""
    begun = False

    def say(line: str) -> None:
        nonlocal begun
        watching.say(line)
        if not begun:
            begun = True
            stack.enter_context(_ticking(stack.enter_context(watching.step(label))))

    return say


@contextmanager
def _ticking(advance: Advance) -> Iterator[None]:
    """Refresh the step's elapsed time, since nothing is counted."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(TICK_S):
            advance(0)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
