# SPDX-License-Identifier: Apache-2.0
"""The process that answers scrapes, with a daemon that counts how often it is asked."""

import asyncio
import contextlib
import json
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.metrics_page import ask, connect, daemon, port, rest, samples

from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.metrics import exporter
from ovs_vhost_plugin.metrics.exporter import PER_USER, serve, status_of


class Daemon:
    """The daemon's end of the exporter, which serves in a thread."""

    def __init__(self, path: Path, ports: int = 1) -> None:
        self.path = path
        self.asked = 0
        self._ports = [port(f"vhu{number}") for number in range(ports)]
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._ours, theirs = socket.socketpair()
        self.exporter = threading.Thread(
            target=lambda: asyncio.run(serve(self._listener, theirs)), daemon=True
        )
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self.exporter.start()
        self._answering.start()

    def _answer(self) -> None:
        with self._ours.makefile("rwb") as lines:
            while lines.readline() == b"scrape\n":
                self.asked += 1
                for told in (*self._ports, {"daemon": daemon()}):
                    lines.write(json.dumps(told).encode() + b"\n")
                lines.flush()

    def leave(self) -> None:
        self._ours.shutdown(socket.SHUT_RDWR)
        self.exporter.join(60)
        self._answering.join(60)
        self._ours.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "metrics")
    yield made
    made.leave()


def body(answer: bytes) -> str:
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(text)}\r\n".encode() in head
    assert b"Content-Type: application/openmetrics-text; version=" in head
    return text.decode()


def test_a_scrape_has_all(served: Daemon) -> None:
    found = samples(body(ask(served.path)))
    assert found["ovs_vhost_port_running", ("vhu0",)] == 1
    assert found["ovs_vhost_ports", ()] == 2


def test_many_clients_cost_the_daemon_one_scrape(
    served: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "FRESH", 3600.0)
    pages = {ask(served.path) for _ in range(5)}
    assert len(pages) == 1 and served.asked == 1
    monkeypatch.setattr(exporter, "FRESH", 0.0)
    ask(served.path)
    assert served.asked == 2


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 200),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics SPDY/1\r\n\r\n", 400),
    ],
)
def test_requests_and_what_are_none(head: bytes, status: int) -> None:
    assert status_of(head) == status


@pytest.mark.parametrize(
    "garbage", [b"x" * 100_000, b"\0" * 9000 + b"\r\n\r\n", b"POST / x\r\n\r\n"]
)
def test_garbage_is_answered_or_cut_off_and_hurts_nobody(served: Daemon, garbage: bytes) -> None:
    with connect(served.path) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(garbage)
        assert rest(client)[:12] in (b"HTTP/1.1 400", b"")
    assert samples(body(ask(served.path)))
    assert served.asked == 1


def test_a_client_that_leaves_before_its_end_is_forgotten(served: Daemon) -> None:
    for _ in range(2 * PER_USER):
        # Those before may not be seen to have left yet: then this one is refused at once.
        with connect(served.path) as client, contextlib.suppress(ConnectionError):
            client.sendall(b"GET /met")
    # All may be accepted before the first is seen to have left.
    assert samples(body(wait_until(lambda: ask(served.path), "room for one more")))


def test_a_user_has_few_connections_and_gets_room_again(served: Daemon) -> None:
    silent = [connect(served.path) for _ in range(PER_USER)]
    with connect(served.path) as further:
        assert rest(further) == b""
    for client in silent:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert samples(body(rest(client)))
        client.close()
    assert samples(body(wait_until(lambda: ask(served.path), "room for one more")))


def test_who_says_nothing_is_cut_off(served: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "HEAD_SECONDS", 0.05)
    with connect(served.path) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert rest(client) == b""


def test_who_does_not_read_is_cut_off_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "ANSWER_SECONDS", 0.5)
    served = Daemon(tmp_path / "metrics", ports=300)
    try:
        with connect(served.path) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            slow.recv(1)
            whole = ask(served.path)
            assert len(whole) > 1 << 19  # more than a socket keeps
            await_cut(slow)
            assert len(rest(slow)) < len(whole) - 1
    finally:
        served.leave()


def await_cut(client: socket.socket) -> None:
    """Return when the other side has closed."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    assert poll.poll(60_000)


def test_it_ends_with_the_daemon_and_says_so_to_those_who_wait(tmp_path: Path) -> None:
    served = Daemon(tmp_path / "metrics")
    silent = connect(served.path)
    served.leave()
    assert not served.exporter.is_alive()
    silent.close()
