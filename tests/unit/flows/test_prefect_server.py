"""The port of Prefect's temporary server is taken before the server starts."""

import socket

import pytest

from flows.orchestration.server import _bound


def test_two_that_want_the_same_port_get_one_each() -> None:
    with _bound(0, again=False) as first:
        port = first.getsockname()[1]
        with _bound(port, again=False) as second:
            assert second.getsockname()[1] != port
        with pytest.raises(OSError, match="in use"), _bound(port, again=True):
            pass


def test_a_successor_has_the_port_of_the_one_that_died() -> None:
    with _bound(0, again=False) as first:
        port = first.getsockname()[1]
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.listen()
        with socket.create_connection(("127.0.0.1", port)) as client, first.accept()[0] as accepted:
            accepted.close()  # the side that closes first keeps the port for a minute
            client.recv(1)
    with _bound(port, again=True) as second:
        assert second.getsockname()[1] == port
