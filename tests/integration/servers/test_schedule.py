"""A schedule works by itself on a real Prefect server, and goes on after a kill."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).with_name("three_nights.py")


def test_three_scheduled_runs_one_of_them_through_a_kill(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The script that shows it to people; its last lines are a JSON document."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "nights")],
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    facts = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert [fact["killed"] for fact in facts].count(True) == 1
    assert all(fact["same_bytes"] for fact in facts)
    assert len({fact["run"] for fact in facts}) == 3
    fault = "raft deploy --serve and all its children killed while a scheduled run trains"
    record_property("tried", ["Schedules", fault, "started again, all three scheduled runs end the same", 1])
