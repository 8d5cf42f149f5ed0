"""Prepare the examples where a person watches: a bar or a line for each stage that has something to do."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from flows.process.progress import Advance, Reporter
from raft_core import examples
from raft_core.examples import Progress, Receipt
from raft_core.examples.presets import EXAMPLES

TICK_S = 1.0


def prepare_example(example: str, watching: Reporter, stages: Sequence[str] | None = None) -> dict[str, Receipt]:
    """``examples.prepare``, watched. A stage that is prepared already leaves no word. Raises what that does."""
    if example not in EXAMPLES:
        return examples.prepare(example)  # it says which ones there are
    receipts: dict[str, Receipt] = {}
    for stage in stages or EXAMPLES[example].stages:
        with ExitStack() as shown:
            progress = _shown(watching, f"{example} · prepare {stage}", shown)
            receipts |= examples.prepare(example, stages=[stage], progress=progress)
    return receipts


def _shown(watching: Reporter, label: str, stack: ExitStack) -> Progress:
    """Say each line; the first one begins the step, which ``stack`` ends."""
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
    """Nothing is counted, but time passes: the step shows that it is alive."""
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
