# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost capture` on both hosts while a QEMU guest live-migrates from one to the other."""

import signal
from contextlib import closing

import pytest
from support.system.captures import CaptureProcess, fields, marks

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, Fabric
from ovs_vhost_plugin.lab.platform import packages

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

PORT = "vhu0"
MAC = "52:54:00:00:00:05"
ADDRESS = "10.0.0.5"
HERE_SIZE, THERE_SIZE = 300, 400
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, ICMP
RECEIVED, TRANSMITTED = "0x00000001", "0x00000002"


def qemu(host, *, incoming=False):
    config = GuestConfig(mac=MAC, address=f"{ADDRESS}/24", neighbours={CLIENT_ADDRESS: CLIENT_MAC})
    backend = VhostUser(host.directory / f"{PORT}.sock")
    directory = host.directory / "guest"
    return QemuGuest(host.namespace, directory, image.build(), backend, config, incoming=incoming)


def pings(capture, size):
    """The directions in which pings with `size` bytes of data have crossed the rings."""
    found = fields(
        capture.path,
        f"icmp && frame.len == {size + HEADERS}",
        "frame.packet_flags_direction",
        "frame.comment",
    )
    assert all(comment.startswith("virtio-net: ") for _, comment in found)
    return {direction for direction, _ in found}


def test_each_host_shows_its_part_of_a_migration(tmp_path, require):
    require(packages.WIRESHARK.present, "tshark is not installed")
    with Fabric() as fabric:
        hosts = (fabric.a, fabric.b)
        for host in hosts:
            host.add_client_port(PORT)
            host.wait_ofport(PORT)
        fabric.set_neighbour(ADDRESS, MAC)
        with (
            qemu(fabric.a) as here,
            qemu(fabric.b, incoming=True) as there,
            closing(CaptureProcess(fabric.a, PORT, tmp_path / "here.pcapng")) as source,
            closing(CaptureProcess(fabric.b, PORT, tmp_path / "there.pcapng")) as destination,
        ):
            for capture in (source, destination):
                capture.wait_records()
            fabric.a.wait_running(PORT)
            fabric.client.ping(ADDRESS, "-s", str(HERE_SIZE))
            here.migrate(there)
            fabric.client.ping(ADDRESS, "-s", str(THERE_SIZE))
            for capture in (source, destination):
                status, words = capture.end(signal.SIGINT)
                assert status == 0 and ", 0 left out" in words, words
            assert [host.stats(PORT)["faults"] for host in hosts] == [{}, {}]
    both = {RECEIVED, TRANSMITTED}
    assert [pings(source, size) for size in (HERE_SIZE, THERE_SIZE)] == [both, set()]
    assert [pings(destination, size) for size in (HERE_SIZE, THERE_SIZE)] == [set(), both]
    told = marks(source.path)
    assert [told.count(f"leaves: {step}") for step in ("memory-is-copied", "rings-stopped")] == [
        1,
        1,
    ]
    assert marks(destination.path).count("comes: rings-run") == 1
