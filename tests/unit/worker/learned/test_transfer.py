# SPDX-License-Identifier: Apache-2.0
"""A state through a real pipe, whose other end does what it likes; nothing here ever blocks."""

import fcntl
import os
import select
import selectors
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.worker.learned.transfer import Transfer

pytestmark = pytest.mark.timeout(30)  # seconds: a transfer that blocks is ended, and named

MOST = 50_000
DATA = bytes(range(256)) * 150


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Rig:
    """The front-end's end of a pipe, and the worker's loop."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.reading, self.writing = os.pipe()
        self.transfers: list[Transfer] = []

    def save(self, data: bytes, fd: int | None = None) -> Transfer:
        return self._begin(self.writing if fd is None else fd, data)

    def load(self, fd: int | None = None) -> Transfer:
        return self._begin(self.reading if fd is None else fd, None)

    def _begin(self, fd: int, data: bytes | None) -> Transfer:
        # Blocking, as QEMU's are, and shared: the front-end keeps what it passes.
        self.transfers.append(Transfer(os.dup(fd), data, MOST, self.selector))
        return self.transfers[-1]

    def turn(self) -> int:
        """One turn of the loop; how many fds were ready."""
        ready = self.selector.select(0)
        for key, _ in ready:
            key.data(0.0)
        return len(ready)

    def read(self, most: int) -> bytes:
        """What is there to be read; b"": the end."""
        assert select.select([self.reading], [], [], 10)[0], "nothing is written"
        return os.read(self.reading, most)

    def close_both(self) -> None:
        for fd in (self.reading, self.writing):
            os.close(fd)
        self.reading = self.writing = -1

    def close(self) -> None:
        for transfer in self.transfers:
            transfer.close()
        assert not self.selector.get_map()
        self.selector.close()
        for fd in (self.reading, self.writing):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def name_of(transfer: Transfer) -> str:
    with pytest.raises(PeerError) as caught:
        transfer.result()
    return str(caught.value.name)


def test_a_state_is_written_and_its_end_is_the_pipes(rig: Rig) -> None:
    transfer = rig.save(DATA)
    os.close(rig.writing)
    rig.writing = -1
    assert rig.read(100_000) == DATA
    assert rig.read(1) == b""
    assert transfer.result() == DATA


def test_a_state_is_read_up_to_the_pipes_end(rig: Rig) -> None:
    transfer = rig.load()
    for piece in (DATA[:10], DATA[10:20_000], DATA[20_000:]):
        os.write(rig.writing, piece)
        assert rig.turn() == 1
    os.close(rig.writing)
    rig.writing = -1
    assert transfer.result() == DATA


@pytest.mark.parametrize("blocking", [True, False])
def test_a_front_end_that_does_not_read_holds_nobody_up(rig: Rig, blocking: bool) -> None:
    os.set_blocking(rig.writing, blocking)  # it is the front-end's flag as well
    fcntl.fcntl(rig.writing, fcntl.F_SETPIPE_SZ, 4096)
    transfer = rig.save(DATA)
    assert rig.turn() == 0  # and the loop does not spin
    assert name_of(transfer) == "device-state-unfinished"
    received = b""
    while not transfer.finished:
        assert len(received) <= len(DATA)
        received += rig.read(4096)
        rig.turn()
    assert received + rig.read(4096) == DATA
    assert transfer.result() == DATA


def test_a_front_end_that_stops_reading_is_named(rig: Rig) -> None:
    fcntl.fcntl(rig.writing, fcntl.F_SETPIPE_SZ, 4096)
    transfer = rig.save(DATA)
    os.close(rig.reading)
    rig.reading = -1
    assert name_of(transfer) == "device-state-not-read"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_front_end_that_does_not_write_holds_nobody_up(rig: Rig, blocking: bool) -> None:
    os.set_blocking(rig.reading, blocking)
    transfer = rig.load()
    assert rig.turn() == 0
    assert name_of(transfer) == "device-state-unfinished"
    os.write(rig.writing, DATA[:100])
    assert name_of(transfer) == "device-state-unfinished"


def test_a_front_end_that_writes_without_end_is_cut_off(rig: Rig) -> None:
    transfer = rig.load()
    os.close(rig.reading)
    rig.reading = -1
    with pytest.raises(BrokenPipeError):
        for _ in range(100):
            os.write(rig.writing, DATA[:4096])
            rig.turn()
    assert name_of(transfer) == "device-state-too-large"


def test_as_much_as_is_allowed_is_read(rig: Rig) -> None:
    transfer = rig.load()
    for _ in range(MOST // 1000):
        os.write(rig.writing, bytes(1000))
        rig.turn()
    os.close(rig.writing)
    rig.writing = -1
    assert len(transfer.result()) == MOST


def test_nothing_is_left_open(rig: Rig) -> None:
    before = open_fds()
    for transfer in (rig.save(DATA), rig.load()):
        transfer.close()
    assert open_fds() == before


def test_the_wrong_end_of_a_pipe(rig: Rig) -> None:
    for begin, fd in (
        (rig.load, rig.writing),
        (lambda fd: rig.save(DATA, fd), rig.reading),
    ):
        before = open_fds()
        with pytest.raises(PeerError, match="device-state-not-a-pipe"):
            begin(fd)
        assert open_fds() == before
