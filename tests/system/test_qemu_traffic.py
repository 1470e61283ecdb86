# SPDX-License-Identifier: Apache-2.0
"""QEMU guests pass traffic through the bridge, with each way to lay out rings and buffers."""

import socket
import time
from pathlib import Path

import pytest
from support.system.qemu_site import (
    GUEST,
    GUEST_MAC,
    MIB,
    PEER,
    PEER_MAC,
    PORT,
    Site,
    ring_size,
    settled,
)

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.platform import versions
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

JUMBO = 9000
FLOWS = 20
PING_SIZES = (56, 57, 1000, 1471, 1472)


@pytest.fixture(scope="module")
def site(qemu_programs):
    with Site(mtu=JUMBO) as made:
        made.peer.run("ip", "link", "set", "eth0", "mtu", "1500")
        yield made


@pytest.fixture(scope="module")
def guest(site):
    """A guest with QEMU's defaults on the port as the README adds it."""
    path = site.directory / "vm.sock"
    option = f"options:vhost-server-path={path}"
    command = ["add-port", BRIDGE, "vhu0", "--", "set", "Interface", "vhu0", option]
    site.host.switch.vsctl(*command)
    assert site.host.wait_ofport("vhu0") > 0, "before there is a VM"
    with site.qemu(path) as running:
        site.host.wait_status("vhu0", "running")
        yield running
    if site.host.switch.interface("vhu0", "name"):
        site.host.delete_port("vhu0")


def test_the_port_says_what_was_negotiated(site, guest):
    told = site.told()
    assert told["socket"] == str(site.directory / "vm.sock")
    assert (told["vring-0-size"], told["vring-1-size"]) == (ring_size(), ring_size())
    assert "error" not in told
    offloads = (Feature.CSUM, Feature.GUEST_CSUM, Feature.HOST_TSO4, Feature.GUEST_TSO4)
    rings = (Feature.MRG_RXBUF, Feature.RING_INDIRECT_DESC, Feature.RING_EVENT_IDX)
    for bit in (*offloads, *rings, Feature.VERSION_1, Feature.GUEST_ANNOUNCE):
        assert site.features() & bit.mask, bit.name
    acknowledged = int(told["protocol-features"], 16)
    for protocol_bit in (ProtocolFeature.CONFIGURE_MEM_SLOTS, ProtocolFeature.REPLY_ACK):
        assert acknowledged & protocol_bit.mask, protocol_bit.name


def test_arp_works_in_both_directions(site, guest):
    site.peer.run("ip", "neigh", "del", GUEST, "dev", "eth0")
    guest.run(f"arp -d {PEER}")
    site.ping(56)
    assert GUEST_MAC in site.peer.run("ip", "neigh", "show", GUEST)
    site.peer.run("ip", "neigh", "flush", "dev", "eth0")
    guest.run(f"arp -d {PEER}; ping -q -c 3 -i 0.1 {PEER}")
    assert PEER_MAC in guest.run(f"arp -n {PEER}")


def test_ping_of_every_kind_of_length(site, guest):
    for size in PING_SIZES:
        site.ping(size)


def test_tcp_carries_random_data_whole_in_both_directions(site, guest):
    site.tcp(guest, 20 * MIB)
    site.tcp(guest, 4 * MIB, guest_listens=True)


def test_udp_payloads_come_whole_also_in_fragments(site, guest):
    site.udp(guest, 7000, size=1024)
    site.udp(guest, 7001, size=4096)


def switches(pid: int) -> dict[str, int]:
    """How often each thread of a process went to sleep."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (line.split(":") for line in (task / "status").read_text().splitlines())
        counts[task.name] = int(dict(fields)["voluntary_ctxt_switches"])
    return counts


def test_an_idle_port_costs_no_wakeups(site, guest):
    # Nobody is to ask whether the other is still there.
    site.pin_neighbour()
    guest.run(f"arp -i eth0 -s {PEER} {PEER_MAC}")
    pid = site.worker()

    def idle():
        counters = settled(site.counters)
        slept = settled(lambda: switches(pid))
        time.sleep(3)  # the point: nothing happens
        return switches(pid) == slept and site.counters() == counters

    wait_until(idle, "three seconds without a wakeup")  # after what others may have left to say


def test_removing_the_port_removes_all_that_was_published(site, guest):
    site.host.delete_port(PORT)
    state = site.host.directory / "ovs-vhost"
    wait_until(lambda: not list(state.glob(f"{PORT}.*")), "the end of the port")
    assert PORT not in site.host.namespace.run("ip", "-brief", "link")
    path = site.directory / "vm.sock"
    # The row stays when only the port's options go: then our keys have to go.
    site.host.add_client_port(PORT, path)
    site.host.wait_status(PORT, "running")
    site.host.switch.vsctl("remove", "Interface", PORT, "options", "vhost-server-path")
    wait_until(lambda: not site.host.status(PORT), "our keys are gone")
    site.host.delete_port(PORT)


# Each is a guest of its own: QEMU's properties of the NIC, and the features it must (not) have.
MODERN = Feature.VERSION_1
MERGE, INDIRECT, EVENTS = Feature.MRG_RXBUF, Feature.RING_INDIRECT_DESC, Feature.RING_EVENT_IDX
VARIANTS = {
    "legacy-10-byte-header": (
        {"disable-modern": "on", "disable-legacy": "off", "mrg_rxbuf": "off"},
        {INDIRECT, EVENTS},
        {MODERN, MERGE},
    ),
    "legacy-mergeable": ({"disable-modern": "on", "indirect_desc": "off"}, {MERGE}, {MODERN}),
    "modern-plain-rings": (
        {
            "disable-legacy": "on",
            "mrg_rxbuf": "off",
            "indirect_desc": "off",
            "event_idx": "off",
            "rx_queue_size": "512",
        },
        {MODERN},
        {MERGE, INDIRECT, EVENTS},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_carries_tcp_in_server_mode(site, variant):
    device, present, absent = VARIANTS[variant]
    path = site.host.add_server_port(PORT)
    try:
        assert site.host.wait_ofport(PORT) > 0, "before there is a VM"
        site.host.wait_status(PORT, "listening")
        with site.qemu(path, listen=False, device=device) as running:
            site.host.wait_status(PORT, "running")
            assert {bit for bit in present | absent if site.features() & bit.mask} == present
            size = ring_size(int(device.get("rx_queue_size", "256")))
            assert site.host.status(PORT)["vring-0-size"] == size
            for length in PING_SIZES:
                site.ping(length)
            site.udp(running, 7000, size=4096)
            site.tcp(running, 4 * MIB)
            assert not site.stats()["errors"]
    finally:
        site.host.delete_port(PORT)
        wait_until(lambda: not path.exists(), "the end of the socket")


def test_interrupts_come_by_msi_x_where_qemu_can(site):
    """7.2 crashes in its own MSI-X code with an emulated processor; 10.0 does not."""
    vectors = 0 if versions.qemu() < (10, 0) else 3
    path = site.host.add_client_port(PORT)
    try:
        with site.qemu(path, device={"vectors": str(vectors)}) as running:
            site.host.wait_status(PORT, "running")
            listed = running.run("ls /sys/class/net/eth0/device/../msi_irqs 2>/dev/null || true")
            assert len(listed.split()) == vectors
            site.ping(56)
            site.tcp(running, 4 * MIB)
            site.tcp(running, MIB, guest_listens=True)
            assert not site.stats()["errors"]
    finally:
        site.host.delete_port(PORT)


def test_jumbo_frames_and_long_rings(site):
    path = site.host.add_client_port(PORT, None, f"mtu_request={JUMBO}")
    device = {"host_mtu": str(JUMBO), "rx_queue_size": "1024", "tx_queue_size": "1024"}
    try:
        with site.qemu(path, device=device) as running:
            site.host.wait_status(PORT, "running")
            site.peer.run("ip", "link", "set", "eth0", "mtu", str(JUMBO))
            assert site.features() & Feature.MTU.mask
            told = site.told()
            assert (told["vring-0-size"], told["vring-1-size"]) == ("1024", "1024")
            assert running.run("cat /sys/class/net/eth0/mtu") == str(JUMBO)
            with Capture(site.host.namespace, PORT, snap=64) as capture:
                for size in (1472, 4096, JUMBO - 28):
                    site.ping(size)
                lengths = {int.from_bytes(f.data[16:18], "big") for f in capture.frames()}
            assert JUMBO in lengths, "in one piece"
            site.udp(running, 7000, size=8192)
            site.tcp(running, 4 * MIB)
    finally:
        site.peer.run("ip", "link", "set", "eth0", "mtu", "1500")
        site.host.delete_port(PORT)


def test_an_mtu_larger_than_the_ports_is_refused_by_name(site):
    path = site.host.add_client_port(PORT, None, "mtu_request=1500")
    try:
        with site.qemu(path, device={"host_mtu": str(JUMBO)}):
            condition = "external_ids:vhost-user-status=connected"
            site.host.switch.wait_until("Interface", PORT, condition)
            wait_until(
                lambda: site.host.status(PORT).get("error", "").startswith("mtu-too-large"),
                "the refusal's name",
            )
            assert site.stats()["errors"]["mtu-too-large"] >= 1
            assert site.host.status(PORT)["status"] != "running"
    finally:
        site.host.delete_port(PORT)


def test_several_queue_pairs_share_the_traffic(site):
    path = site.host.add_client_port(PORT, None, "external_ids:vhost-user-queues=2")
    try:
        with site.qemu(path, queues=2, cpus=2) as running:
            site.host.wait_status(PORT, "running")
            assert site.features() & Feature.MQ.mask
            site.told(vrings=4)
            for number in range(4):
                # The driver gives each processor a transmit queue of its own, and the tap
                # answers a flow on the queue that it came from.
                running.run(f"taskset -p {1 + number % 2} $$")
                site.tcp(running, 2 * MIB)
            for pair in (0, 1):
                # Bytes and not frames: how many frames a flow takes is TCP's own choice.
                counters = site.counters(pair)
                assert min(counters["tx_bytes"], counters["rx_bytes"]) > MIB // 4, counters
    finally:
        site.host.delete_port(PORT)


def test_the_guest_switches_queue_pairs_on_and_off(site):
    """`ethtool -L`: what comes is spread over the pairs that are on, and none is lost."""

    def received():
        return [pair["rx_packets"] for pair in site.stats()["queue_pairs"]]

    path = site.host.add_client_port(PORT, None, "external_ids:vhost-user-queues=4")
    try:
        with site.qemu(path, queues=4) as running:
            site.host.wait_status(PORT, "running")
            for step, pairs in enumerate((4, 1, 3, 2)):
                running.run(f"ethtool -L eth0 combined {pairs}")
                before = received()
                for _ in range(FLOWS):
                    with site.peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                        for _ in range(5):
                            sock.sendto(b"for nobody", (GUEST, 9))
                total = sum(before) + 5 * FLOWS
                wait_until(lambda total=total: sum(received()) >= total, "all datagrams")
                site.udp(running, 7000 + step, size=1024, count=25)
                used = [n for n, (a, b) in enumerate(zip(before, received(), strict=True)) if b > a]
                assert max(used) < pairs
                assert len(used) > 1 or pairs == 1
            assert not site.stats()["errors"]
    finally:
        site.host.delete_port(PORT)
