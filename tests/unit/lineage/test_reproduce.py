"""The code that runs again is the one that the records name."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.lineage.reproduce import _align
from raft_core.errors import StepError
from raft_core.records.run import Run

MAIN = """
import json, os, subprocess, sys
import flows
def main():
    child = subprocess.run([sys.executable, "-m", "flows.child"], capture_output=True, text=True, check=True)
    seen = os.path.join(os.environ["RAFT_WORKSPACE"], "seen.json")
    with open(seen, "w") as file:
        json.dump([flows.__file__, child.stdout], file)
"""


def code(folder: Path) -> Path:
    for name, text in (("__init__", ""), ("cli", MAIN), ("child", "import flows\nprint(flows.__file__, end='')")):
        (folder / "flows").mkdir(parents=True, exist_ok=True)
        (folder / "flows" / f"{name}.py").write_text(text)
    return folder


def test_the_code_of_the_workspace_does_not_run(make_run: Callable[..., Run], tmp_path: Path) -> None:
    """The workspace is the repository as a rule: its working tree is another version, with changes."""
    run = make_run()
    workspace, clone = code(tmp_path), code(tmp_path / "clone")
    (tmp_path / "again").mkdir()
    with pytest.raises(StepError, match="run first"):  # this code aligns nothing
        _align(run, workspace, tmp_path / "again", clone, os.environ)
    expected = str(clone / "flows" / "__init__.py")
    assert json.loads((tmp_path / "again" / "seen.json").read_text()) == [expected, expected]
