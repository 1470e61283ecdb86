# SPDX-License-Identifier: Apache-2.0
"""When a worker asks for /dev/userfaultfd, and for how long front-ends wait for the answer."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.reports import AskUserfaultfd
from ovs_vhost_plugin.worker.device.userfaultdevice import UserfaultDevice


class Rig:
    """A device on a clock, with a daemon that hears."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.now = 100.0
        self.outbox = FakeOutbox()
        self.device = UserfaultDevice(self.outbox, lambda: self.now, wanted=wanted)  # type: ignore[arg-type]

    def run(self, after: float = 0.0) -> int:
        """How often it has asked, some seconds later."""
        self.now += after
        self.device.run(self.now)
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
    assert not rig.device.awaited(rig.now) and rig.device.due(rig.now) is None
    assert "vhost-user-postcopy" in rig.device.why_not
    rig.device.take(fd)  # as nobody has asked for
    assert not rig.device.there and not is_open(fd)


def test_a_front_end_waits_for_the_answer(rig: Rig, fd: int) -> None:
    assert rig.run() == 1
    assert rig.device.awaited(rig.now) and not rig.device.there
    rig.device.take(fd)
    assert rig.device.there and not rig.device.awaited(rig.now)
    assert rig.device.due(rig.now) is None
    assert rig.run(100) == 1


def test_but_not_for_ever(rig: Rig) -> None:
    rig.run()
    while (wait := rig.device.due(rig.now)) is not None and rig.now < 200:
        rig.run(wait)
        if not rig.device.awaited(rig.now):
            break
    assert rig.now == pytest.approx(103.0)


def test_a_daemon_that_comes_later_is_asked_then(rig: Rig) -> None:
    rig.outbox.is_open = False
    assert rig.run() == 0
    rig.outbox.is_open = True
    assert rig.run(50) == 1


def test_a_refusal_is_told_and_ends_the_waiting(rig: Rig) -> None:
    rig.run()
    rig.device.refused("no such device")
    assert not rig.device.awaited(rig.now)
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
    assert rig.device.awaited(rig.now)
    assert rig.run() == 1
    assert rig.run(rig.device.due(rig.now) or 0) == 2


def test_a_row_that_changes_is_followed(rig: Rig, fd: int) -> None:
    rig.run()
    rig.device.take(fd)
    rig.device.want(False)
    assert not is_open(fd) and not rig.device.there
    assert rig.run(10) == 1
    rig.device.want(True)
    assert rig.run(10) == 2


def test_a_second_one_takes_the_place_of_the_first(rig: Rig, fd: int) -> None:
    other = os.dup(fd)
    rig.device.take(fd)
    rig.device.take(other)
    assert is_open(other) and not is_open(fd)
