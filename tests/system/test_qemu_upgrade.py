# SPDX-License-Identifier: Apache-2.0
"""A worker hands its port over while a QEMU guest of each kind runs, and the guest sees nothing."""

import itertools
import json

import pytest
from support.system.qemu_life import echoed, resumed, unanswered
from support.system.qemu_site import MIB, PORT, Site
from support.system.soft_ports import carrier_changes

from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

KIB = 1 << 10
UPGRADES = 3
FLOWS = range(7900, 7964)
"""UDP ports, so many that some come by each queue pair."""


@pytest.fixture
def site(qemu_programs):
    with Site() as made:
        yield made


def upgrade(site):
    """Have the port's worker replaced; return the new one's pid."""
    before = site.worker()
    answer = site.host.appctl("vhost/upgrade", PORT, "--format", "json")
    assert json.loads(answer)["ports"][PORT].startswith("upgraded"), answer
    assert site.worker() != before
    return site.worker()


def seen(site, guest):
    """What would change if the guest or the daemon noticed something."""
    shown = json.loads(site.host.appctl("vhost/show", "--format", "json"))
    stats = site.stats()
    return (
        guest.run("cat /sys/class/net/eth0/carrier_changes"),
        carrier_changes(site.host, PORT),
        shown["faults"],
        stats["errors"],
        stats["connections"],
    )


def replaced_under_traffic(site, guest, rate):
    """The worker is replaced again and again; nobody notices, and no record is lost."""
    before = seen(site, guest)
    with echoed(site, guest, rate=rate) as flow:
        for _ in range(UPGRADES):
            upgrade(site)
            resumed(flow, rate // 5)
        assert unanswered(flow) == []
    assert seen(site, guest) == before
    site.host.wait_running(PORT)


def use_all_pairs(site, guest, pairs):
    """Send flows until each queue pair has had frames both ways."""
    had = [site.counters(pair) for pair in range(pairs)]
    flows = itertools.chain(FLOWS)

    def all_used():
        site.udp(guest, next(flows), size=64, count=4)
        now = [site.counters(pair) for pair in range(pairs)]
        ways = ("rx_packets", "tx_packets")
        return all(a[way] > b[way] for a, b in zip(now, had, strict=True) for way in ways)

    wait_until(all_used, "frames by each pair")


@pytest.mark.parametrize("packed", ["off", "on"], ids=["split", "packed"])
def test_a_guest_with_several_queue_pairs(site, packed):
    pairs = 2
    path = site.host.add_client_port(PORT)
    with site.qemu(path, queues=pairs, cpus=pairs, device={"packed": packed}) as guest:
        site.host.wait_running(PORT)
        assert bool(site.features() & Feature.RING_PACKED.mask) == (packed == "on")
        wait_until(lambda: len(site.stats()["queue_pairs"]) == pairs, "all pairs")
        use_all_pairs(site, guest, pairs)
        replaced_under_traffic(site, guest, 500)
        use_all_pairs(site, guest, pairs)
        site.tcp(guest, MIB)


@pytest.mark.parametrize("setting", ["iommu.strict=0", "iommu.strict=1"])
def test_a_guest_behind_an_iommu(site, setting):
    with site.qemu(site.host.add_client_port(PORT), iommu=(setting,)) as guest:
        site.host.wait_running(PORT)
        assert site.features() & Feature.ACCESS_PLATFORM.mask
        replaced_under_traffic(site, guest, 50)
        site.tcp(guest, 32 * KIB)
        assert site.stats()["iotlb_misses"] > 0
        assert site.stats()["faults"] == {}
