# SPDX-License-Identifier: Apache-2.0
"""A guest whose memory is a private copy of the file that its front-end passes."""

import os
import platform
from pathlib import Path

import pytest
from support.system.soft_ports import check_inward, check_outward, frame_of, settle

from ovs_vhost_plugin.guest.driver.memory import GuestMemory
from ovs_vhost_plugin.guest.soft import FEATURES, USUAL, Config, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

ERROR = "memory-not-shared"
EVERY_KICK = FEATURES & ~Feature.RING_EVENT_IDX.mask
PACKED = Feature.RING_PACKED.mask
SIZES = [60, 1500]
TIMEOUTS = {"7": 2, "232": 3}
"""The argument of poll and epoll_wait that is their timeout, by system call (x86-64)."""


class PrivateMemory(GuestMemory):
    """What the guest writes is not in the files that are passed."""

    def __init__(self, regions):
        super().__init__(regions)
        own, self.fds = self.fds, tuple(os.memfd_create("passed") for _ in self.fds)
        for mine, passed in zip(own, self.fds, strict=True):
            os.ftruncate(passed, os.fstat(mine).st_size)
            os.close(mine)


@pytest.mark.parametrize("features", [EVERY_KICK, EVERY_KICK | PACKED], ids=["split", "packed"])
def test_it_is_named_and_forgotten_with_the_next_front_end(port, features):
    memory = PrivateMemory.of_size(64 << 20)
    guest = SoftGuest(port.path, Config(features=features, memory=memory))
    guest.start()
    settle(guest)
    port.wait_carrier()
    assert port.published_error() == ""

    def named():
        # One at a time: kicks that come together are one.
        guest.send(frame_of(60, outward=True))
        return port.published_error().startswith(ERROR)

    wait_until(named, ERROR, poll=0.2)
    assert port.errors() == {ERROR: 1}
    guest.close()
    right = port.guest(USUAL)
    check_inward(port, right, SIZES)
    check_outward(port, right, SIZES)
    wait_until(lambda: not port.published_error(), "the error's end")


def sleeps_without_end(task):
    """Whether a thread is in a system call that only an event ends; source: proc(5)."""
    number, *arguments = (task / "syscall").read_text().split()
    return number in TIMEOUTS and int(arguments[TIMEOUTS[number]], 16) & 0xFFFFFFFF == 0xFFFFFFFF


@pytest.mark.parametrize("memory", [GuestMemory, PrivateMemory], ids=["used", "never used"])
def test_a_silent_guest_wakes_no_thread_of_its_worker(port, require, memory):
    """A driver that has never used its NIC leaves rings of zeros, as a private copy shows them."""
    require(platform.machine() == "x86_64", "the numbers of system calls are those of x86-64")
    guest = SoftGuest(port.path, Config(memory=memory.of_size(64 << 20)))
    guest.start()
    settle(guest)
    port.wait_carrier()

    def asleep():
        tasks = list(Path(f"/proc/{port.pid}/task").iterdir())
        return len(tasks) == 2 and all(sleeps_without_end(task) for task in tasks)

    wait_until(asleep, "no timer is pending")
    assert port.published_error() == ""
    guest.close()
