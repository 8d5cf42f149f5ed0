"""A library's own words reach no sink with a secret: standard error, its handlers, events, errors that are kept."""

import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from flows.cli import exits
from flows.loop.session import Session
from flows.process.progress import LineReporter
from flows.process.secrecy import guard, hiding, secrets_in, without_secrets
from raft_core.errors import StepError
from raft_core.records.run import Run, read_events

PASSWORD = "hun'ter2 2024/x"
ADDRESS = "postgresql+psycopg://raft:hunter2%2F24@db:5432/mlflow"
ENVIRONMENT = {
    "MLFLOW_TRACKING_URI": ADDRESS,
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENG",
    "HOME": "/home/hunter",
    "RAFT_LEDGER": "postgresql://me:abc@db/ledger",
    "STORE_PASSWORD": PASSWORD,
}


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], StringIO]]:
    """Called inside the test, since pytest sets its own standard error before that: a guarded one."""
    factory = logging.getLogRecordFactory()

    def begin() -> StringIO:
        stream = StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        guard(ENVIRONMENT)
        return stream

    yield begin
    logging.setLogRecordFactory(factory)


def secret_free(text: str) -> bool:
    return bool(text) and not any(part in text for part in ("hunter2", "wJalr", "ter2", "2024/x"))


def test_what_the_environment_holds() -> None:
    assert secrets_in(ENVIRONMENT) == {"hunter2%2F24", "hunter2/24", "wJalrXUtnFEMIK7MDENG", PASSWORD}
    hide = hiding(secrets_in(ENVIRONMENT))
    assert hide("password authentication failed: 'hunter2/24' (abc)") == (
        "password authentication failed: '[redacted]' (abc)"
    )


def test_the_folder_of_a_shell_is_no_password(tmp_path: Path) -> None:
    """PWD is set in every shell: a message that told somebody to read a file there hid the file's place."""
    (tmp_path / "key.json").touch()
    shell = {"PWD": str(tmp_path), "OLDPWD": "/", "GOOGLE_CREDENTIALS": str(tmp_path / "key.json")}
    assert secrets_in(shell) == set()
    assert secrets_in({"DB_PWD": "/like/a/folder"}) == {"/like/a/folder"}


def test_prints_of_a_library(guarded: Callable[[], StringIO]) -> None:
    stderr = guarded()
    print(f"cannot reach {ADDRESS}", file=sys.stderr)
    sys.stderr.writelines(["said ", "hunter2/24", "\n"])
    assert secret_free(stderr.getvalue())
    assert stderr.getvalue().count("[redacted]") == 2


def test_an_error_in_a_thread(guarded: Callable[[], StringIO]) -> None:
    stderr = guarded()
    error = ValueError(f"no answer of {ADDRESS} with {PASSWORD}")
    threading.__excepthook__(threading.ExceptHookArgs((ValueError, error, None, None)))
    sys.__excepthook__(ValueError, error, None)
    assert stderr.getvalue().count("no answer of") == 2
    assert secret_free(stderr.getvalue())


def test_log_records_in_handlers_that_are_not_ours(guarded: Callable[[], StringIO], tmp_path: Path) -> None:
    stderr = guarded()
    file, seen = tmp_path / "library.log", list[logging.LogRecord]()
    handlers: list[logging.Handler] = [logging.FileHandler(file), logging.StreamHandler(sys.stderr)]

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger = logging.getLogger("a library")
    logger.propagate = False
    for handler in (*handlers, Kept()):
        logger.addHandler(handler)
    logger.warning("API request to %s failed (%s)", ADDRESS, PASSWORD)
    try:
        raise ValueError(f"with {ADDRESS}")
    except ValueError:
        logger.exception("no answer")
    for handler in handlers:
        handler.close()
    assert secret_free(file.read_text())
    assert secret_free(stderr.getvalue())
    assert "Traceback" in file.read_text()
    assert secret_free("".join(record.getMessage() for record in seen))


def test_errors_of_ours_are_clean_wherever_they_go() -> None:
    error = StepError(f"no answer of {ADDRESS}", got=ValueError(f"{ADDRESS} is away"), hint=f"ask {ADDRESS}")
    again = pickle.loads(pickle.dumps(error))
    for told in (str(error), repr(error), error.what, str(again), f"{again!r}"):
        assert secret_free(told)


def test_a_warning_of_a_session_is_clean_in_the_events(
    guarded: Callable[[], StringIO], write_run: Callable[..., Run]
) -> None:
    guarded()
    run = write_run()
    out = StringIO()
    session = Session(run, run.path, SecretStr(ADDRESS), LineReporter(Console(file=out)))
    session.outage("MLflow", f"MLflow said: no answer with {PASSWORD} of {ADDRESS}")
    assert secret_free(out.getvalue())
    assert secret_free(str(read_events(run, "warning")))


def test_a_kept_traceback_is_clean(guarded: Callable[[], StringIO]) -> None:
    guarded()
    try:
        raise ValueError(f"{ADDRESS} and {PASSWORD}")
    except ValueError:
        kept = Path(exits._keep_traceback())
    assert secret_free(kept.read_text())
    kept.unlink()


def test_the_command_guards_itself(tmp_path: Path) -> None:
    """A password that its address does not give away, in a library's own words."""
    program = (
        "import logging, sys, warnings; from flows.cli import app as cli, exits\n"
        "def told(*_, **__):\n    logging.getLogger('x').error('with hunter2-%s', 'hunter2')\n"
        "    warnings.warn('a warning with hunter2-hunter2')\n"
        "    raise ValueError('hunter2-hunter2')\n"
        "cli.app = told\ncli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "", "DB_PASSWORD": "hunter2-hunter2", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == exits.FAILED_STEP
    assert all(
        told in done.stderr for told in ("with [redacted]", "a warning with [redacted]", "ValueError: [redacted]")
    )
    assert secret_free(done.stderr)


def test_without_a_guard_the_form_alone_is_known() -> None:
    assert without_secrets("http://me:hunter2@host") == "http://[redacted]@host"
