# SPDX-License-Identifier: Apache-2.0
"""The lab's QEMU guests on QEMU's own taps: what the tests of our back-end stand on."""

import pytest

from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, Tap
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, PHYSICAL, Fabric
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.measure.flow import Flow, GuestReceiver
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError, wait_until

pytestmark = pytest.mark.system

MAC = "52:54:00:00:00:09"
ADDRESS = "10.0.0.9"
CONFIG = GuestConfig(
    mac=MAC, address=f"{ADDRESS}/24", neighbours={CLIENT_ADDRESS: CLIENT_MAC}, mtu=1400
)


@pytest.fixture(scope="module")
def fabric(require):
    words = packages.missing((*packages.SWITCH, *packages.GUEST))
    require(words is None, words)
    with Fabric(daemons=False) as made:
        for host in (made.a, made.b):
            host.namespace.tap("tap0")
            host.switch.add_port(BRIDGE, "tap0")
        made.set_neighbour(ADDRESS, MAC)
        yield made


def guest(host, *, incoming=False):
    directory = host.directory / "guest"
    return QemuGuest(
        host.namespace, directory, image.build(), Tap("tap0"), CONFIG, incoming=incoming
    )


def test_a_guest_is_what_its_configuration_says_and_moves_with_all_it_has(fabric):
    with guest(fabric.a) as here:
        assert f"inet {ADDRESS}/24" in here.run("ip address show eth0")
        assert MAC in here.run("cat /sys/class/net/eth0/address")
        assert here.run("cat /sys/class/net/eth0/mtu") == "1400"
        assert here.run("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "1"
        assert CLIENT_MAC in here.run("arp -n")
        with pytest.raises(LabError, match="exit status 3"):
            here.run("(exit 3)")
        assert "5 packets received" in here.run(f"ping -q -c 5 -i 0.1 {CLIENT_ADDRESS}")

        receiver = GuestReceiver(here, 7000)
        with (
            guest(fabric.b, incoming=True) as there,
            Flow(fabric.client, (ADDRESS, 7000), rate=500) as flow,
        ):
            wait_until(lambda: flow.sent >= 100, "a hundred packets")
            moved = here.migrate(there)
            sent_by_then = flow.sent
            wait_until(lambda: flow.sent >= sent_by_then + 200, "two hundred packets more")
            flow.stop()
            arrivals = receiver.all_of(flow, there)

        assert moved.started < moved.source_stopped < moved.destination_resumed
        assert 0 < moved.downtime_ms < moved.total_ms
        assert arrivals.damaged == 0
        numbers = set(arrivals.numbers)
        assert {0, 99} <= numbers, "received before the migration"
        assert flow.sent - 1 in numbers, "received after the migration"


def test_a_guest_answers_a_flow(fabric):
    with guest(fabric.a) as here:
        # The network may believe it elsewhere, from the test before, and its flow caches make
        # it learn late: half a second, the revalidator's period.
        here.run(f"until ping -q -c 1 -W 1 {CLIENT_ADDRESS}; do :; done")
        port = str(fabric.physical_port(fabric.a))
        wait_until(lambda: fabric.physical.fdb(PHYSICAL)[MAC][0] == port, "the network to learn")
        GuestReceiver(here, 7001, echo=True)
        with Flow(fabric.client, (ADDRESS, 7001), rate=200, flow=2) as flow:
            wait_until(lambda: flow.sent >= 100, "a hundred packets")
            flow.stop()
            wait_until(lambda: flow.collect(0.05) or len(flow.answers) >= flow.sent, "the answers")
        assert [number for _, number in flow.answers] == list(range(flow.sent))
        assert flow.damaged_answers == 0


def test_a_guest_that_cannot_start_says_why(fabric):
    config = GuestConfig(mac="no mac", address=f"{ADDRESS}/24")
    broken = QemuGuest(
        fabric.a.namespace, fabric.a.directory / "broken", image.build(), Tap("tap0"), config
    )
    with pytest.raises(LabError, match="no mac"), broken:
        pass
