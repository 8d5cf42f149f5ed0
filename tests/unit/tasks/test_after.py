"""What serves is told: commands without a shell, a webhook on loopback, and every way that they fail."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from raft_core.promotion.ledger import GENESIS, Entry
from raft_core.promotion.rules import PromotionRules
from tasks.promotion.hooks import run_hooks

BODY = {"commit": "c" * 64, "policy": "p" * 32, "run": "one", "iteration": 3}
ENTRY = Entry(1, GENESIS, "d" * 64, "t", "promoted", "m", BODY)


class Listener(BaseHTTPRequestHandler):
    """Keeps what it gets; /gone redirects, /no refuses."""

    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response({"/gone": 302, "/no": 500}.get(self.path, 204))
        if self.path == "/gone":
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    Listener.got = []
    server = HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Listener.got
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_webhook_gets_the_facts(listener: tuple[str, list[dict[str, Any]]]) -> None:
    url, got = listener
    (told,) = run_hooks(PromotionRules(webhook=f"{url}/hook?token=hidden"), ENTRY)
    assert (told.ok, told.what) == (True, "webhook at 127.0.0.1")
    assert got == [{"action": "promoted", "model": "m", **{k: str(v) for k, v in BODY.items()}, "entry": "d" * 64}]


@pytest.mark.parametrize(("path", "code"), [("/gone", "302"), ("/no", "500")])
def test_a_webhook_that_refuses_or_leads_elsewhere(
    listener: tuple[str, list[dict[str, Any]]], path: str, code: str
) -> None:
    url, got = listener
    (told,) = run_hooks(PromotionRules(webhook=url + path), ENTRY)
    assert (told.ok, code in told.outcome, len(got)) == (False, True, 1)


def test_a_webhook_that_is_away() -> None:
    (told,) = run_hooks(PromotionRules(webhook="http://127.0.0.1:9/hook"), ENTRY)
    assert "refused" in told.outcome


def test_a_webhook_that_answers_garbage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"220 no http here\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        (told,) = run_hooks(PromotionRules(webhook=f"http://127.0.0.1:{server.getsockname()[1]}/"), ENTRY)
        thread.join()
    assert (told.ok, "220 no http" in told.outcome) == (False, True)


def test_a_command_has_no_shell_and_knows_what_happened(tmp_path: Path) -> None:
    script = f"import os; open({str(tmp_path / 'out')!r}, 'w').write(os.environ['RAFT_RUN'] + os.environ['RAFT_ENTRY'])"
    told = run_hooks(PromotionRules(after=(f'python -c "{script}"', "echo $(touch /nowhere/x) > /nowhere/y")), ENTRY)
    assert [t.outcome for t in told] == ["ok", "ok"]
    assert (tmp_path / "out").read_text() == "one" + "d" * 64


def test_a_command_that_hangs_is_ended() -> None:
    (told,) = run_hooks(PromotionRules(after=("sleep 60",), after_timeout_s=0.2), ENTRY)
    assert "0.2 s (after_timeout_s)" in told.outcome
