"""Doctor: each probe against something that is there and something that is not."""

import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.cli import doctor


def test_this_environment_fits(tmp_path: Path) -> None:
    (found,) = doctor.packages()
    assert found.level == "ok"
    assert re.match(r"[1-9]\d+ requirements .*torch \d", found.found)


def test_a_compiler_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'no such header' >&2\nexit 1\n")
    broken.chmod(0o755)
    found = doctor.compiler(str(broken))
    assert (found.level, found.found) == ("warning", f"{broken}: no such header")
    assert "g++" in found.hint
    assert doctor.compiler(str(tmp_path / "nothing")).level == "warning"


def test_an_environment_under_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/a b/.venv")
    assert doctor.environment_path().level == "missing"


def test_a_server_that_answers_and_one_that_does_not() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert (
            doctor.tracking(f"http://user:secret@127.0.0.1:{port}").found
            == f"http://[redacted]@127.0.0.1:{port} answers"
        )
    refused = doctor.tracking(f"http://127.0.0.1:{port}")
    assert refused.level == "warning"
    assert "unset MLFLOW_TRACKING_URI" in refused.hint


@pytest.mark.parametrize(
    ("says", "level", "shown"),
    [("3.9.0", "warning", "is MLflow 3.9.0"), ("3.17.2", "ok", "answers, MLflow 3.17.2"), ("<html>", "ok", "answers")],
)
def test_an_old_server_is_named(says: str, level: str, shown: str) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(says.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = doctor.tracking(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert found.level == level
    assert found.found.endswith(shown)


@pytest.mark.parametrize("address", ["u:p/w@h", "u:p@ss/w@h", "u@h?token=p/ss"])
@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_no_part_of_a_password_is_shown(scheme: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_connect", lambda *_: None)
    monkeypatch.setattr(doctor, "_served_version", lambda uri: None)
    found = doctor.tracking(f"{scheme}://{address}/db")
    assert not {"p", "ss", "w"} & set(re.split(r"\W+", found.found.removeprefix(scheme)))
    assert "[redacted]" in found.found


def test_dvc_with_and_without_a_remote(tmp_path: Path) -> None:
    assert [f.level for f in doctor.dvc_remote(tmp_path)] == ["warning"]
    config = tmp_path / ".dvc" / "config"
    config.parent.mkdir()
    config.write_text("[core]\n    remote = local\n['remote \"local\"']\n    url = ../.dvc-remote\n")
    (found,) = doctor.dvc_remote(tmp_path)
    assert (found.level, found.found) == ("ok", "local ../.dvc-remote")
    config.write_text("[core]\n    remote = gone\n")
    assert [f.level for f in doctor.dvc_remote(tmp_path)] == ["warning"]
    config.write_text("no section\n")
    assert [f.level for f in doctor.dvc_remote(tmp_path)] == ["missing"]


def test_disk_of_a_workspace_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert "free in" in doctor.disk(tmp_path / "a" / "b").found
