# SPDX-License-Identifier: Apache-2.0
"""QEMU stays up while its back-end is killed and comes back: no frame twice, no descriptor lost."""

import os
import signal
import struct

import pytest
from support.system.qemu_life import alive, echoed, left, resumed, successor
from support.system.qemu_site import MIB, PORT, Site

from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

RATE = 500  # datagrams a second each way
REFILL = 32  # Linux offers new receive buffers when more than half of a burst of 64 are used
AVAIL, USED = 1 << 7, 1 << 15  # virtio 1.2, 2.8.13


@pytest.fixture(scope="module")
def site(qemu_programs):
    with Site() as made:
        yield made


@pytest.fixture(scope="module", params=["off", "on"], ids=["split", "packed"])
def guest(site, request):
    path = site.host.add_client_port(PORT)
    with site.qemu(path, device={"packed": request.param}) as running:
        site.host.wait_status(PORT, "running")
        yield running
    site.host.delete_port(PORT)
    wait_until(lambda: not left(site, PORT), "the port's end")


def test_a_worker_is_killed_under_traffic_again_and_again(site, guest):
    check_buffers(site, guest)
    with echoed(site, guest, rate=RATE) as flow:
        for _ in range(3):
            pid = site.worker()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: successor(site, pid), "another worker")
            resumed(flow)
    check(site, guest)


def test_a_worker_is_killed_again_and_again_under_a_quiet_guest(site, guest):
    """QEMU writes into a packed transmit ring that has no back-end: kicks are not needed then."""
    site.ping(56)
    for _ in range(3):
        pid = site.worker()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: successor(site, pid), "another worker")
        wait_until(lambda: site.stats()["status"] == "running", "its rings")
    site.ping(56)
    check(site, guest)


def test_daemon_and_worker_are_killed_at_once(site, guest):
    with echoed(site, guest, rate=RATE) as flow:
        site.host.stop_daemon(kill=True)
        os.kill(site.worker(), signal.SIGKILL)
        site.host.start_daemon()
        resumed(flow)
    check(site, guest)


def test_the_port_is_removed_and_added_again(site, guest):
    with echoed(site, guest, rate=RATE) as flow:
        pid = site.worker()
        site.host.delete_port(PORT)
        wait_until(lambda: not left(site, PORT), "the port's end")
        assert not alive(pid)
        site.host.add_client_port(PORT)
        resumed(flow)
    assert site.host.wait_ofport(PORT) > 0
    check(site, guest)


def check(site, guest):
    """No ring broke, both go round and round, and every buffer is within the port's reach."""
    assert site.stats()["errors"] == {}
    site.tcp(guest, MIB)
    check_buffers(site, guest)


def check_buffers(site, guest):
    """The receive buffers that the driver offers, all but those it has yet to renew, are ahead of
    where the port stands; and of what it sent none is left."""

    def whole():
        size, available, reachable = buffers(site, guest, 0)
        return size - REFILL <= available == reachable

    # What is under way is none of the lost: those never come.
    wait_until(whole, "the receive buffers")
    wait_until(lambda: buffers(site, guest, 1)[2] == 0, "what it sent")


def buffers(site, guest, index):
    """A ring's size, how many descriptors are available, and how many of these the port will find.

    Not by QEMU's own count (x-query-virtio-queue-status), which asks for the base and so stops
    the ring.
    """
    path = next(
        device["path"]
        for device in guest.qmp.command("x-query-virtio")
        if device["name"] == "virtio-net"
    )
    ring = guest.qmp.command("x-query-virtio-vhost-queue-status", path=path, queue=index)
    size, memory = ring["num"], guest.directory / "ring"

    def read(address, length):
        guest.qmp.command("pmemsave", val=address, size=length, filename=str(memory))
        return memory.read_bytes()

    if guest.config.device["packed"] == "off":
        avail, used = (
            struct.unpack("<HH", read(ring[part], 4))[1] for part in ("avail-phys", "used-phys")
        )
        return size, (avail - used) % 65536, (avail - used) % 65536
    flags = [flags for _, flags in struct.iter_unpack("<14sH", read(ring["desc-phys"], 16 * size))]
    at = position(site, index)
    reachable = 0
    while reachable < size:
        first = (at + reachable) % (2 * size) < size
        if flags[(at + reachable) % size] & (AVAIL | USED) != (AVAIL if first else USED):
            break
        reachable += 1
    return size, sum(bool(f & AVAIL) != bool(f & USED) for f in flags), reachable


def position(site, index):
    """Where a packed ring stands, as its worker notes it."""
    journal = site.host.journal(site.host.directory / f"{PORT}.sock").read_bytes()
    return struct.unpack_from("<q", journal, JOURNAL_BYTES * index + 8 * 2)[0]
