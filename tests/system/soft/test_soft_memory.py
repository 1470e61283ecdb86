# SPDX-License-Identifier: Apache-2.0
"""Guest memory in hundreds of slots, which come and go one by one while frames pass."""

import pytest
from support.system.soft_ports import check_inward, check_outward, settle

from ovs_vhost_plugin.guest.driver.memory import GuestMemory, Region
from ovs_vhost_plugin.guest.frontend.connection import RequestRefusedError
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

SLOTS = 509
SLOT = 16 * 1024
SIZES = range(60, 1515, 29)


def slots(count):
    """Neighbours for the guest; with gaps and in another order at the front-end's side."""
    return [
        Region((1 << 36) + i * SLOT, SLOT, 0x6E00_0000_0000 + 2 * (i * 7919 % count) * SLOT)
        for i in range(count)
    ]


def mappings(port):
    with open(f"/proc/{port.pid}/maps") as maps:  # noqa: PTH123
        return maps.read().count("memfd:guest-memory")


def test_frames_in_hundreds_of_slots(port):
    guest = port.guest(Config(memory=GuestMemory(slots(SLOTS))))
    assert mappings(port) == SLOTS
    check_outward(port, guest, SIZES)
    check_inward(port, guest, SIZES)
    assert port.errors() == {}
    guest.close()
    wait_until(lambda: mappings(port) == 0, "memory let go")


def test_slots_come_and_go_under_running_rings(port):
    guest = port.guest(Config())
    more = GuestMemory(slots(24))
    try:
        frontend = guest.frontend
        for region, fd in zip(more.regions, more.fds, strict=True):
            frontend.add_region(region, fd)
        check_outward(port, guest, SIZES)
        for region in more.regions[::2]:
            frontend.remove_region(region)
        check_inward(port, guest, SIZES)
        assert mappings(port) == 1 + 12
        with pytest.raises(RequestRefusedError):
            frontend.remove_region(Region(1 << 40, SLOT, 1 << 40))
        settle(guest)
        assert port.errors() == {"region-unknown": 1}
    finally:
        more.close()
