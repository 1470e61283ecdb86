# SPDX-License-Identifier: Apache-2.0
"""Who commands a worker: the newest daemon, as long as its messages are right."""

import contextlib
import os
import selectors
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ovs_vhost_plugin.ipc import commands
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.ipc.commands import Command, Connected, DaemonHello, GetStats, Quit
from ovs_vhost_plugin.worker.daemonlink import DaemonLink


class Worker:
    """A worker that notes what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[Command] = []
        self.fds = 0
        self.left = 0
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen()
        self.link = DaemonLink(self.listener, self.selector, self.obey, self.leave)

    def obey(self, command: Command, fds: Sequence[int]) -> None:
        self.told.append(command)
        self.fds += len(fds)
        for fd in fds:
            os.close(fd)

    def leave(self) -> None:
        self.left += 1

    def run(self) -> None:
        while ready := self.selector.select(0):
            for key, _ in ready:
                key.data(0.0)

    def daemon(self) -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(self.path))
        self.run()
        return Channel(sock)

    def close(self) -> None:
        self.link._drop()
        self.selector.close()
        self.listener.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with contextlib.closing(Worker(tmp_path / "control")) as made:
        yield made
    assert len(list(Path("/proc/self/fd").iterdir())) <= before, "no fd is lost"


def test_commands_come_with_their_fds(worker: Worker) -> None:
    with contextlib.closing(worker.daemon()) as daemon:
        daemon.send(commands.encode(DaemonHello("1")), [0, 0, 0])
        daemon.send(commands.encode(Connected()), [0])
        daemon.send(commands.encode(GetStats(1)))
        worker.run()
        assert worker.told == [DaemonHello("1"), Connected(), GetStats(1)]
        assert worker.fds == 4 and not worker.left
    worker.run()
    assert worker.left == 1


def test_the_newest_daemon_counts(worker: Worker) -> None:
    with (
        contextlib.closing(worker.daemon()) as first,
        contextlib.closing(worker.daemon()) as second,
    ):
        assert worker.left == 1
        with pytest.raises(ChannelClosed):
            first.receive()
        second.send(commands.encode(Quit()))
        worker.run()
        assert worker.told == [Quit()]


@pytest.mark.parametrize(
    ("said", "fds"),
    [
        ({"op": "hello", "protocol": 2}, 3),
        ({**commands.encode(DaemonHello("9")), "protocol": 99}, 3),
        (commands.encode(Connected()), 0),
        (commands.encode(Quit()), 1),
    ],
)
def test_a_daemon_that_says_something_wrong_is_let_go_of(
    worker: Worker, said: dict[str, object], fds: int
) -> None:
    """It sees the end, and ends the worker."""
    with contextlib.closing(worker.daemon()) as daemon:
        daemon.send(said, [0] * fds)
        daemon.send(commands.encode(Connected()), [0])
        worker.run()
        assert worker.told == [] and worker.left == 1
        with pytest.raises(ChannelClosed):
            daemon.receive()


def test_a_command_of_a_later_daemon_is_passed_over(worker: Worker) -> None:
    with contextlib.closing(worker.daemon()) as daemon:
        daemon.send({"op": "no such"}, [0])
        daemon.send(commands.encode(Connected()), [0])
        worker.run()
        assert worker.told == [Connected()] and not worker.left
