# SPDX-License-Identifier: Apache-2.0
"""The software guest goes on at another worker before its memory has come there."""

import contextlib
import os
import select
from pathlib import Path
from random import Random

import pytest
from support.system.soft_ports import SECONDS, check_inward, check_outward

from ovs_vhost_plugin.guest.frontend.connection import WrongReplyError
from ovs_vhost_plugin.guest.postcopy import PostcopyMigration
from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.memory import userfault
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature
from ovs_vhost_plugin.vhost.spec import FrontendRequest as R

pytestmark = pytest.mark.system

SIZES = [60, 1500, 61, 9000, 1514, 400] * 8
PACKED = Feature.RING_PACKED.mask
TRUSTED = ("external_ids:vhost-user-postcopy=true",)


@pytest.mark.parametrize("features", [FEATURES, FEATURES | PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("all_late", [False, True], ids=["what-was-written", "all"])
def test_traffic_passes_whole_while_pages_come_late(plug, features, all_late):
    source, destination = plug(), plug(settings=TRUSTED)
    guest = source.guest(Config(features=features))
    check_inward(source, guest, SIZES)
    migration = PostcopyMigration(
        guest, SoftGuest(destination.path, Config(features=features)).connect(), Random(4)
    )
    migration.begin()
    check_inward(source, guest, SIZES)
    check_outward(source, guest, SIZES)
    migration.copy_dirty()
    check_inward(source, guest, SIZES)
    server = migration.go_ahead(migration.memory.pages() if all_late else ())
    destination.wait_carrier()
    # The rings' next buffers are those that were not used of late, or all: late either way.
    check_inward(destination, guest, SIZES)
    check_outward(destination, guest, SIZES)
    assert bool(server.faults) or not all_late, "the back-end has waited for pages"
    migration.finish(server)
    check_inward(destination, guest, SIZES)
    check_outward(destination, guest, SIZES)
    assert destination.errors() == {}
    migration.release_source()
    assert guest.stop_rings() == [vring.queue.base for vring in guest.vrings]


def opened(port, what):
    """How many fds of the port's worker are of this name."""
    found = 0
    for fd in Path(f"/proc/{port.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            found += what in str(fd.readlink())
    return found


def begun(port):
    """A front-end up to where it may ask for a userfaultfd."""
    guest = SoftGuest(port.path, Config())
    guest.frontend = guest.connect()
    return guest


def test_who_is_not_trusted_gets_no_userfaultfd(plug):
    """It reaches all of the worker's memory: a front-end could write code of its own there."""
    port = plug()
    guest = begun(port)
    try:
        answer = guest.frontend.connection.ask(R.GET_PROTOCOL_FEATURES)
        assert not spec.U64.unpack(answer)[0] & ProtocolFeature.PAGEFAULT.mask
        with pytest.raises(WrongReplyError):
            guest.frontend.advise_postcopy()
    finally:
        guest.close()
    wait_until(lambda: port.errors() == {"protocol-feature-missing": 1}, "the refusal")
    assert opened(port, "userfaultfd") == 0
    assert "vhost-user-postcopy" in port.stats()["postcopy"]
    check_inward(port, port.guest(Config()), SIZES[:6])


def test_a_worker_has_the_device_until_the_migrations_end_and_again_for_the_next(plug):
    port = plug(settings=TRUSTED)
    wait_until(lambda: opened(port, userfault.DEVICE) == 1, "the device")
    guest = begun(port)
    try:
        os.close(guest.frontend.advise_postcopy())
        guest.frontend.listen_postcopy()
        # What was sent is a copy, which a thread closes in its own time (vhost/fds/closing.py).
        wait_until(lambda: opened(port, "[userfaultfd]") == 1, "the end of the copy that was sent")
        assert opened(port, userfault.DEVICE) == 1
        guest.frontend.end_postcopy()
        assert opened(port, "userfaultfd") == 0
        assert port.stats()["postcopy"].startswith("not offered")
    finally:
        guest.close()
    wait_until(lambda: opened(port, userfault.DEVICE) == 1, "the device for the next front-end")
    assert opened(port, "[userfaultfd]") == 0
    key = "external_ids:vhost-user-postcopy"
    port.host.switch.vsctl("remove", "Interface", port.name, *key.split(":"))
    wait_until(lambda: opened(port, "userfaultfd") == 0, "the row's word")
    port.host.switch.vsctl("set", "Interface", port.name, f"{key}=true")
    wait_until(lambda: port.stats()["postcopy"] == "offered", "the row's word")


def test_a_front_end_that_dies_while_a_ring_waits_costs_this_worker_only(plug):
    port, neighbour = plug(settings=TRUSTED), plug()
    other = neighbour.guest(Config())
    before = port.pid
    guest = SoftGuest(port.path, Config())
    try:
        front_end = guest.connect()
        userfaultfd = front_end.advise_postcopy()
        front_end.listen_postcopy()
        for page in guest.memory.pages():
            guest.memory.discard(page)
        guest.frontend = front_end
        front_end.set_features(guest.config.features)
        front_end.give_memory(guest.memory)
        front_end.enable_vring(0, True)
        front_end.start_vring(guest.vrings[0], 0)
        assert select.select([userfaultfd], [], [], SECONDS)[0], "the ring waits for a page"
        front_end.close()
        wait_until(lambda: "postcopy-page-missing" in port.published_error(), "the end")
        os.close(userfaultfd)
    finally:
        guest.close()
    wait_until(
        lambda: port.host.status(port.name).get("status") == "listening" and port.pid != before,
        "another worker",
    )
    check_inward(port, port.guest(Config()), SIZES[:6])
    check_inward(neighbour, other, SIZES[:6])
