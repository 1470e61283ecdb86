# SPDX-License-Identifier: Apache-2.0
"""When a worker asks for /dev/userfaultfd, and for how long front-ends wait for the answer."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.reports import AskUserfaultfd
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.worker.device.userfaultdevice import UserfaultDevice


class Rig:
    """A device on a clock, with a daemon that hears."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.now = 100.0
        self.outbox = FakeOutbox()
        self.device = UserfaultDevice(self.outbox, lambda: self.now, PortSettings(postcopy=wanted))  # type: ignore[arg-type]

    @property
    def awaited(self) -> bool:
        """Whether front-ends wait for the answer."""
        return self.now < self.device.awaited_until()

    def run(self, after: float = 0.0) -> int:
        """How often it has asked, some seconds later."""
        self.now += after
        self.device.handle_timer(self.now)
        return self.outbox.told.count(AskUserfaultfd())


@pytest.fixture
def fd() -> int:
    return os.open("/dev/null", os.O_RDONLY)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.device.close()


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()


def test_it_is_not_asked_for_where_the_row_does_not_say_so(fd: int) -> None:
    rig = Rig(wanted=False)
    assert rig.run() == 0
    assert not rig.awaited and rig.device.get_timer() is None
    assert "vhost-user-postcopy" in rig.device.why_not
    rig.device.take(fd)  # as nobody has asked for
    assert not rig.device.there and not is_open(fd)


def test_a_front_end_waits_for_the_answer(rig: Rig, fd: int) -> None:
    assert rig.run() == 1
    assert rig.awaited and not rig.device.there
    rig.device.take(fd)
    assert rig.device.there and not rig.awaited
    assert rig.device.get_timer() is None
    assert rig.run(100) == 1


def test_but_not_for_ever(rig: Rig) -> None:
    rig.run()
    assert rig.device.awaited_until() == 103.0
    while rig.awaited:
        due = rig.device.get_timer()
        assert due is not None and due > rig.now, "it is asked for all the same"
        rig.run(due - rig.now)
    assert rig.now >= 103.0


def test_a_daemon_that_comes_later_is_asked_then(rig: Rig) -> None:
    rig.outbox.is_open = False
    assert rig.run() == 0 and rig.device.get_timer() is None
    rig.outbox.is_open = True
    assert rig.device.get_timer() is not None
    assert rig.run(50) == 1


def test_a_refusal_is_told_and_ends_the_waiting(rig: Rig) -> None:
    rig.run()
    rig.device.refused("no such device")
    assert not rig.awaited
    assert rig.device.why_not == "no such device"
    assert rig.run(100) == 1
    rig.device.renew()  # for the next front-end
    assert rig.run() == 2


def test_it_is_asked_for_again_only_when_it_has_been_closed_and_not_too_often(
    rig: Rig, fd: int
) -> None:
    rig.run()
    rig.device.take(fd)
    rig.device.renew()
    assert rig.run() == 1
    rig.device.close()
    assert not is_open(fd)
    assert rig.run(1) == 1, "nobody needs it yet"
    rig.device.renew()
    assert rig.awaited
    assert rig.run() == 1
    assert rig.run((rig.device.get_timer() or 0) - rig.now) == 2


def test_a_row_that_changes_is_followed(rig: Rig, fd: int) -> None:
    rig.run()
    rig.device.take(fd)
    rig.device.configure(PortSettings())
    assert not is_open(fd) and not rig.device.there
    assert rig.run(10) == 1
    rig.device.configure(PortSettings(postcopy=True))
    assert rig.run(10) == 2


def test_a_second_one_takes_the_place_of_the_first(rig: Rig, fd: int) -> None:
    other = os.dup(fd)
    rig.device.take(fd)
    rig.device.take(other)
    assert is_open(other) and not is_open(fd)
