"""--json prints one document on standard output, whatever else is printed on the way."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import exits
from flows.cli.document import print_json
from raft_core import errors

Raft = Callable[..., tuple[int, str, str]]

NOISY = """
import os, subprocess, sys
from flows.cli import exits
from flows.cli.document import print_json

def app(arguments, prog_name):
    print("a reward's line")
    os.write(1, b"a library's line\\n")
    subprocess.run([sys.executable, "-c", "print('a child process')"], check=True)
    if "fails" in arguments:
        raise ValueError("in the reward")
    print_json({"done": True})
    print("after it")

sys.exit(exits.run_command(app, sys.argv[1:]))
"""
NOISE = {"a reward's line", "a library's line", "a child process"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NOISY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_but_the_document() -> None:
    done = run("align", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"done": True})
    assert NOISE | {"after it"} <= set(done.stderr.splitlines())


def test_a_reader_that_goes_away_is_no_fault_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-c", NOISY, "align", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()  # as head does
        assert process.stderr is not None
        told = process.stderr.read()
    assert "Traceback" not in told


def test_a_failure_is_a_document_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = run("align", "fails", "--json")
    assert done.returncode == exits.FAILED_STEP
    assert json.loads(done.stdout) == {
        "error": {"kind": "ValueError", "what": "ValueError: in the reward"},
        "exit_code": 4,
    }
    assert set(done.stderr.splitlines()) >= NOISE


def test_without_json_all_is_as_it_was() -> None:
    assert set(run("align").stdout.splitlines()) > NOISE


def test_errors_say_what_got_expected_and_do(capsys: pytest.CaptureFixture[str]) -> None:
    def app(arguments: list[str], prog_name: str) -> None:
        print("noise")
        raise errors.ConfigError("it broke", got="http://me:secret@host/", hint="mend it")

    assert exits.run_command(app, ["align", "--json"]) == exits.USERS_MISTAKE
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["exit_code"], told["error"]["kind"], told["error"]["hint"]) == (2, "ConfigError", "mend it")
    assert "secret" not in out
    assert err.startswith("noise\nerror: it broke")


def test_a_document_that_was_printed_is_the_only_one(capsys: pytest.CaptureFixture[str]) -> None:
    def app(arguments: list[str], prog_name: str) -> None:
        print_json(["refused"])
        raise SystemExit(exits.STOPPED_BY_GATE)

    assert exits.run_command(app, ["promote", "--json"]) == exits.STOPPED_BY_GATE
    assert json.loads(capsys.readouterr().out) == ["refused"]


@pytest.mark.parametrize("arguments", [("show", "nobody"), ("show", "--jsno"), ("align",)])
def test_every_wrong_command_line_too(raft: Raft, arguments: tuple[str, ...]) -> None:
    code, out, err = raft(*arguments, "--json")
    assert code == exits.USERS_MISTAKE
    assert json.loads(out)["exit_code"] == code
    assert err


def test_help_is_no_document(raft: Raft) -> None:
    code, out, _ = raft("show", "--json", "--help")
    assert code == 0
    assert "raft show" in out


def test_an_exception_of_no_usual_kind_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    class Leave(BaseException):
        """As a testing framework raises it."""

    def app(arguments: list[str], prog_name: str) -> None:
        raise Leave("at once")

    assert exits.run_command(app, ["align"]) == exits.FAILED_STEP
    assert "Leave: at once" in capsys.readouterr().err
