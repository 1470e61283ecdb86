# SPDX-License-Identifier: Apache-2.0
"""A device whose guest's memory comes late, with a real userfaultfd, memory and loop."""

import fcntl
import gc
import os
import select
import selectors
import socket
import struct
import tempfile
import threading
from pathlib import Path

import pytest
from support.worker.device_parts import FakeHolding, FakeState, FakeTaps, Observed

from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.memory import userfault
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import Feature
from ovs_vhost_plugin.vhost.spec import FrontendRequest as R
from ovs_vhost_plugin.worker.device import postcopy
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.tap.gate import TapGate

PAGE = 4096
USER = 0x1000_0000_0000  # where the kernel puts nothing that does not ask for it
SIZE = 8
# Each part of each ring is in a page of its own, and so are the buffers, of two pages.
DESC, AVAIL, USED = 0, PAGE, 2 * PAGE
RING = 4 * PAGE
RX_BUFFER, TX_BUFFER = 16 * PAGE, 24 * PAGE
MEMORY = 32 * PAGE
FRAME = bytes(12) + bytes(range(250)) * 24  # longer than a page
FEATURES = sum(
    bit.mask for bit in (Feature.VERSION_1, Feature.MRG_RXBUF, Feature.PROTOCOL_FEATURES)
)


class Source:
    """The memory that is still elsewhere: what its guest left, page by page."""

    def __init__(self):
        self.image = bytearray(MEMORY)
        self._put(TX_BUFFER + 100, FRAME)
        for index, buffer, flags, length in (
            (0, RX_BUFFER, 2, 2 * PAGE),
            (1, TX_BUFFER + 100, 0, len(FRAME)),
        ):
            at = index * RING
            self._put(at + DESC, struct.pack("<QIHH", buffer, length, flags, 0))
            self._put(at + AVAIL, struct.pack("<HHH", 0, 1, 0))

    def _put(self, at, data):
        self.image[at : at + len(data)] = data


class Faults:
    """By what the device makes userfaultfds; notes what becomes of it."""

    def __init__(self, fd):
        self._fd = fd
        self.told = []

    def make(self):
        return userfault.Userfault(self._fd)

    def close(self):
        self.told.append("close")

    def renew(self):
        self.told.append("renew")


class LatePort:
    """A device, and the front-end that it is served by."""

    def __init__(self, device_fd):
        self.tap, self.wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tap.setblocking(False)
        self.wire.settimeout(60)
        self.pair = QueuePair(0, self.tap.fileno())
        self.observed = Observed()
        self.selector = selectors.DefaultSelector()
        self.faults = Faults(device_fd)
        self.device = Device(
            TapGate([self.pair], FakeTaps(), FakeHolding()),  # type: ignore[arg-type]
            FakeState(),  # type: ignore[arg-type]
            self.selector,
            self.observed,
            PortSettings(),
            self.faults,
        )
        self.session = Session(offer(1, None))
        self.device.attach(self.session)
        self.source = Source()
        self.memory = os.memfd_create("late")
        os.ftruncate(self.memory, MEMORY)
        self.userfaultfd = -1
        self.base = 0
        self.late = []

    def close(self):
        self.device.detach()
        self.pair.close()
        for fd in (self.memory, self.userfaultfd):
            if fd >= 0:
                os.close(fd)
        self.tap.close()
        self.wire.close()
        self.selector.close()

    def ask(self, request, payload=b"", *fds):
        reply = self.device.answer(Message(request, payload, spec.VERSION, fds))
        self.device.start_pending()
        return reply

    def be_qemu_7(self):
        """Ask for no acknowledgement of this, by which it is known."""
        self.ask(R.SET_VRING_ENABLE, spec.VRING_STATE.pack(0, 0))

    def listen(self):
        self.ask(R.SET_FEATURES, spec.U64.pack(FEATURES))
        self.userfaultfd = os.dup(self.ask(R.POSTCOPY_ADVISE).fds[0])
        self.ask(R.POSTCOPY_LISTEN)

    def begin(self):
        """Up to rings that run, of whose memory nothing is there."""
        self.listen()
        region = spec.MEMORY_REGION.pack(0, MEMORY, USER, 0)
        payload = spec.MEMORY_HEADER.pack(1, 0) + region
        reply = self.ask(R.SET_MEM_TABLE, payload, os.dup(self.memory))
        self.base = spec.MEMORY_REGION.unpack_from(reply.payload, 8)[2]
        for index in (0, 1):
            at = USER + index * RING
            self.ask(R.SET_VRING_NUM, spec.VRING_STATE.pack(index, SIZE))
            self.ask(R.SET_VRING_BASE, spec.VRING_STATE.pack(index, 0))
            address = (index, 0, at + DESC, at + USED, at + AVAIL, 0)
            self.ask(R.SET_VRING_ADDR, spec.VRING_ADDR.pack(*address))
            self.ask(R.SET_VRING_ENABLE, spec.VRING_STATE.pack(index, 1))
            self.ask(R.SET_VRING_KICK, spec.U64.pack(index), os.eventfd(1))

    def acknowledge(self):
        self.ask(R.SET_MEM_TABLE)

    def next_fault(self):
        """The page that somebody waits for."""
        assert select.select([self.userfaultfd], [], [], 60)[0], "nobody waits for a page"
        message = os.read(self.userfaultfd, 32)
        assert message[0] == 0x12  # UFFD_EVENT_PAGEFAULT
        address = struct.unpack_from("=Q", message, 16)[0]
        assert 0 <= address - self.base < MEMORY
        return (address - self.base) // PAGE

    def bring(self, page):
        at = page * PAGE
        os.pwrite(self.memory, self.source.image[at : at + PAGE], at)
        self.late.append(page)
        self.wake(page)

    def wake(self, page):
        waiting = userfault.RANGE.pack(self.base + page * PAGE, PAGE)
        fcntl.ioctl(self.userfaultfd, 0x8010AA02, waiting)  # UFFDIO_WAKE

    def bring_until(self, done):
        while not done():
            if select.select([self.userfaultfd], [], [], 0.01)[0]:
                self.bring(self.next_fault())

    def used(self, index):
        return int.from_bytes(os.pread(self.memory, 2, index * RING + USED + 2), "little")

    def holes(self):
        """The pages that have not come, nor been made up."""
        return {
            page
            for page in range(MEMORY // PAGE)
            if os.lseek(self.memory, page * PAGE, os.SEEK_HOLE) == page * PAGE
        }


@pytest.fixture
def port(require):
    require(os.access(userfault.DEVICE, os.R_OK | os.W_OK), f"no {userfault.DEVICE}, or not ours")
    device = userfault.open_device()
    port = LatePort(device)
    yield port
    port.close()
    del port
    gc.collect()  # errors keep the mappings that they met, and those an fd
    os.close(device)


def test_memory_is_where_the_front_end_has_it(port):
    """By addresses that are not so QEMU keeps a list of pages that it never strikes off."""
    port.begin()
    assert port.base == USER


def test_rings_go_on_as_their_pages_come(port):
    port.begin()
    assert not port.pair.running, "memory must not be touched before the acknowledgement"
    port.acknowledge()
    first = port.next_fault()
    # While the loop waits, the front-end is served.
    assert port.ask(R.GET_FEATURES) is not None
    port.bring(first)
    port.wire.send(FRAME)
    port.bring_until(lambda: port.used(0) == port.used(1) == 1)
    assert port.wire.recv(1 << 16) == FRAME
    assert os.pread(port.memory, len(FRAME) - 12, RX_BUFFER + 12) == FRAME[12:]
    rings = {(i * RING + at) // PAGE for i in (0, 1) for at in (DESC, AVAIL, USED)}
    buffers = {at // PAGE + i for at in (RX_BUFFER, TX_BUFFER) for i in (0, 1)}
    assert set(port.late) == rings | buffers, "each page that was touched came late, and no other"
    assert spec.U64.unpack(port.ask(R.POSTCOPY_END).payload) == (0,)
    assert port.observed.errors == []
    for index in (0, 1):
        reply = port.ask(R.GET_VRING_BASE, spec.VRING_STATE.pack(index, 0))
        assert spec.VRING_STATE.unpack(reply.payload) == (index, 1)


def test_a_ring_that_is_stopped_waits_for_its_page(port):
    port.begin()
    port.acknowledge()
    first = port.next_fault()
    bases = []
    ask = spec.VRING_STATE.pack(1, 0)
    stop = threading.Thread(target=lambda: bases.append(port.ask(R.GET_VRING_BASE, ask).payload))
    stop.start()
    port.bring(first)
    port.bring_until(lambda: not stop.is_alive())
    stop.join()
    (payload,) = bases
    assert spec.VRING_STATE.unpack(payload) == (1, port.used(1))


def wait_in(port, place):
    """Bring pages until the loop waits for the one at `place`."""
    while (page := port.next_fault()) != place // PAGE:
        port.bring(page)
    return page


@pytest.mark.parametrize("place", [RING + DESC, TX_BUFFER + PAGE], ids=["loop", "system-call"])
def test_a_page_that_never_comes_is_not_waited_for_without_end(port, place, monkeypatch):
    """It stays missing, and nothing is sent in its place."""
    monkeypatch.setattr(postcopy, "_PATIENCE_GONE", 0.2)
    port.begin()
    port.acknowledge()
    while (page := port.next_fault()) != place // PAGE:
        port.bring(page)
    before = port.holes()
    given_up, ended = [], threading.Event()

    def bring_all():
        port.bring(page)
        port.bring_until(ended.is_set)

    # For the loop to end: the worker would have ended.
    others = threading.Thread(target=bring_all)

    def give_up(why):
        given_up.append((why, port.holes()))
        others.start()

    port.device._postcopy._give_up = give_up
    port.device.detach()
    ended.set()
    others.join()
    why, there = given_up[0]
    assert "gone" in why
    assert page in there == before
    assert port.observed.busies, "it does not hang as long as it waits"


def test_memory_that_was_there_before_cannot_come_late(port):
    payload = spec.MEMORY_HEADER.pack(1, 0) + spec.MEMORY_REGION.pack(0, MEMORY, USER, 0)
    port.ask(R.SET_MEM_TABLE, payload, os.dup(port.memory))
    port.ask(R.POSTCOPY_ADVISE)
    with pytest.raises(PeerError) as caught:
        port.ask(R.POSTCOPY_LISTEN)
    assert caught.value.name == PeerErrorName.POSTCOPY_WITH_MEMORY


def test_a_file_on_a_disk_is_refused_by_name(port):
    port.session.offer = offer(1, None, any_memory=True)
    with tempfile.TemporaryFile(dir=Path(__file__).parent) as file:
        file.truncate(MEMORY)
        port.listen()
        payload = spec.SINGLE_REGION.pack(0, 0, MEMORY, USER, 0)
        with pytest.raises(PeerError) as caught:
            port.ask(R.ADD_MEM_REG, payload, os.dup(file.fileno()))
    assert caught.value.name == PeerErrorName.POSTCOPY_MEMORY_KIND


def test_a_userfaultfd_that_cannot_be_made_is_told(port):
    def fail():
        raise OSError(24, "Too many open files")

    port.faults.make = fail
    reply = port.ask(R.POSTCOPY_ADVISE)
    assert (reply.payload, reply.fds) == (b"", ())
    assert [e.name for e in port.observed.errors] == [PeerErrorName.POSTCOPY_UNAVAILABLE]


def test_the_last_userfaultfd_before_listen_counts(port):
    """QEMU 7.2 asks once for each queue pair, and the last one's handler alone can answer yet."""
    port.be_qemu_7()
    for _ in range(3):
        port.ask(R.POSTCOPY_ADVISE)
    port.begin()
    port.ask(R.POSTCOPY_ADVISE)
    port.acknowledge()
    port.wire.send(FRAME)
    port.bring_until(lambda: port.used(0) == port.used(1) == 1)
    port.ask(R.POSTCOPY_END)


def test_nothing_is_left_open_whatever_was_advised(port):
    before = len(list(Path("/proc/self/fd").iterdir()))
    port.be_qemu_7()
    for _ in range(5):
        port.ask(R.POSTCOPY_ADVISE)
    port.device.detach()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_device_is_needed_until_the_end_and_again_by_the_next_front_end(port):
    port.begin()
    port.acknowledge()
    port.bring_until(lambda: port.used(1) == 1)
    assert port.faults.told == []
    port.ask(R.POSTCOPY_END)
    assert port.faults.told == ["close"]
    port.device.detach()
    assert port.faults.told == ["close", "renew"]


def test_a_front_end_that_went_no_further_than_to_ask_has_used_it_too(port):
    port.ask(R.POSTCOPY_ADVISE)
    port.device.detach()
    assert port.faults.told == ["close", "renew"]


def test_one_that_did_not_ask_leaves_it_to_the_next(port):
    port.device.detach()
    assert port.faults.told == ["renew"]
