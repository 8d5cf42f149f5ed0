"""What a newcomer types first: the version, the shell's completion."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
RAFT = Path(sys.executable).with_name("raft")


def raft(*arguments: str, shell: Sequence[str] = (), **environment: str) -> str:
    told = subprocess.run(
        [*shell, RAFT, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (told.returncode, told.stderr) == (0, "")
    return told.stdout


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert raft("--version") == f"raft {project['version']}\n"


def test_the_licence_is_named_and_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def complete(line: str, **environment: str) -> list[str]:
    """What bash gets for the last word of ``line``."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return raft(_RAFT_COMPLETE="complete_bash", **words, **environment).split()


def test_the_shell_completes_commands_and_runs(tmp_path: Path) -> None:
    for name in ("first", "fine", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    in_bash = ("bash", "-c", '"$@"; exit $?', "bash")  # typer asks the process above for the kind of the shell
    assert "complete -o default -F _raft_completion raft" in raft("--show-completion", shell=in_bash)
    assert complete("raft al") == ["align"]
    for command in ("show", "resume"):
        assert complete(f"raft {command} fi", RAFT_WORKSPACE=str(tmp_path)) == ["fine", "first"]
