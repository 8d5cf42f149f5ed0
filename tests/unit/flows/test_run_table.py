"""What ``raft show`` prints of a run's figures."""

import io

from rich.console import Console

from flows.views.run import RunView
from flows.views.table import print_run


def shown(num_prompts: int) -> str:
    row = {"iteration": -1, "num_prompts": num_prompts, "reward": 0.5, "reward_low": 0.4, "reward_high": 0.6}
    view = RunView(
        name="one", status="completed", best=-1, reason="over", planned=1, rows=[row], warnings=[], decisions=[]
    )
    console = Console(file=io.StringIO(), width=160)
    print_run(console, view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_intervals_of_few_prompts_are_called_rough() -> None:
    assert "rough intervals: 32 held-out prompts" in shown(32)
    assert "rough" not in shown(64)
