# SPDX-License-Identifier: Apache-2.0
"""A negotiated session, files to share, and a check that no test leaks an fd."""

import fcntl
import os
from collections.abc import Callable, Generator, Iterator

import pytest

from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import Effect
from ovs_vhost_plugin.vhost.features import Nic, offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import FrontendRequest, ProtocolFeature

# What a front-end acknowledges while it migrates, and what it does not for split rings
_LATER = spec.Feature.LOG_ALL.mask | spec.Feature.RING_PACKED.mask
Execute = Callable[[Effect], object]


def open_fds() -> set[int]:
    """This process's open fds, without the one that listed them."""
    with os.scandir("/proc/self/fd") as entries:
        listed = [int(entry.name) for entry in entries]
    return {fd for fd in listed if is_open(fd)}


def is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def no_fd_leak() -> Iterator[None]:
    before = open_fds()
    yield
    wait_until(lambda: open_fds() <= before, "all is closed: some by threads (closing.py)")


class FrontEnd:
    """Speaks to one session, and executes its effects as a device would: it owns passed fds."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.effects: list[Effect] = []
        self.execute: Execute = lambda effect: None

    def send(
        self,
        request: int,
        payload: bytes = b"",
        fds: tuple[int, ...] = (),
        *,
        need_reply: bool = False,
    ) -> Message | None:
        """One request; the effects it had are then in `effects`."""
        flags = spec.VERSION | (spec.NEED_REPLY if need_reply else 0)
        self.effects = []
        return self._run(self.session.receive(Message(request, payload, flags, fds)))

    def _run(self, handling: Generator[Effect, object, Message | None]) -> Message | None:
        try:
            effect = next(handling)
            while True:
                self.effects.append(effect)
                for fd in getattr(effect, "fds", ()) or (
                    [effect.fd] if hasattr(effect, "fd") else []
                ):
                    os.close(fd)
                try:
                    result = self.execute(effect)
                except Exception as error:
                    effect = handling.throw(error)
                else:
                    effect = handling.send(result)
        except StopIteration as stop:
            return stop.value

    def u64(self, request: int, value: int, fds: tuple[int, ...] = (), **kwargs: bool):
        return self.send(request, spec.U64.pack(value), fds, **kwargs)

    def state(self, request: int, index: int, num: int, **kwargs: bool):
        return self.send(request, spec.VRING_STATE.pack(index, num), **kwargs)

    def addr(self, index=0, flags=0, desc=0x10000, used=0x30000, avail=0x20000, log=0, **kwargs):
        payload = spec.VRING_ADDR.pack(index, flags, desc, used, avail, log)
        return self.send(FrontendRequest.SET_VRING_ADDR, payload, **kwargs)

    def set_up_vring(self, index: int = 0) -> None:
        """Disabled for now, size, base, addresses and kick, in QEMU's order."""
        self.state(FrontendRequest.SET_VRING_ENABLE, index, 0)
        self.state(FrontendRequest.SET_VRING_NUM, index, 256)
        self.state(FrontendRequest.SET_VRING_BASE, index, 0)
        self.addr(index)
        self.u64(FrontendRequest.SET_VRING_KICK, index, (os.eventfd(0),))


@pytest.fixture
def bare() -> Iterator[FrontEnd]:
    """A front-end that has negotiated nothing yet, with a port of two queue pairs, MTU 1500."""
    session = Session(offer(queue_pairs=2, mtu=1500, nic=Nic(bytes.fromhex("525400000001"))))
    yield FrontEnd(session)
    session.close()


@pytest.fixture
def peer(bare: FrontEnd) -> FrontEnd:
    """A front-end that has acknowledged all that was offered, but LOG_ALL."""
    bare.u64(FrontendRequest.SET_PROTOCOL_FEATURES, bare.session.offer.protocol_features)
    bare.u64(FrontendRequest.SET_FEATURES, bare.session.offer.features & ~_LATER)
    assert bare.session.negotiated(ProtocolFeature.REPLY_ACK)
    return bare


@pytest.fixture
def memfd() -> Callable[[int], int]:
    """Make a file of a size in shared memory; the test passes its fd on."""

    def make(size: int) -> int:
        fd = os.memfd_create("guest")
        os.ftruncate(fd, size)
        return fd

    return make
