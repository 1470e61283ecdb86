# SPDX-License-Identifier: Apache-2.0
"""QEMU's NICs with each feature off and the others on, and with all of them off.

A guest takes seconds to boot, a NIC none. So all of them are in one guest, each on a port and in
a subnet of its own; one guest with split and one with packed rings.
"""

from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from support.system.qemu_site import GUEST, GUEST_MAC, PEER, PEER_MAC, PORT, Site

from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

# QEMU's property of the NIC, and the feature that it switches.
FEATURES = {
    "csum": Feature.CSUM,
    "guest_csum": Feature.GUEST_CSUM,
    "guest_tso4": Feature.GUEST_TSO4,
    "guest_tso6": Feature.GUEST_TSO6,
    "guest_ecn": Feature.GUEST_ECN,
    "host_tso4": Feature.HOST_TSO4,
    "host_tso6": Feature.HOST_TSO6,
    "host_ecn": Feature.HOST_ECN,
    "mrg_rxbuf": Feature.MRG_RXBUF,
    "indirect_desc": Feature.RING_INDIRECT_DESC,
    "event_idx": Feature.RING_EVENT_IDX,
    "guest_announce": Feature.GUEST_ANNOUNCE,
}
# What QEMU keeps to itself; Linux takes no NIC that lacks only some of these.
OWN = ("status", "ctrl_vq", "ctrl_rx", "ctrl_rx_extra", "ctrl_vlan", "ctrl_mac_addr")
OFF = {"none": (), **{name: (name,) for name in FEATURES}, "all": (*FEATURES, *OWN)}
ALL = sum(bit.mask for bit in FEATURES.values())
SIZE = 1 << 19
BOOT_SECONDS = 240  # with all its NICs, on a machine that has other things to do


@dataclass(frozen=True)
class Nic:
    """The NIC `number` of the guest: eth0 is QemuGuest's own, the others follow it."""

    number: int
    off: tuple[str, ...]
    packed: bool

    @property
    def port(self):
        return f"vhu{self.number}"

    @property
    def mac(self):
        return f"52:54:00:00:01:{self.number:02x}" if self.number else GUEST_MAC

    @property
    def guest(self):
        return f"10.1.{self.number}.2" if self.number else GUEST

    @property
    def peer(self):
        return f"10.1.{self.number}.1" if self.number else PEER

    @property
    def device(self):
        """QEMU's properties."""
        return {"packed": "on" if self.packed else "off", **dict.fromkeys(self.off, "off")}

    @property
    def without(self):
        """The features that it must not have, as a mask."""
        return sum(FEATURES[name].mask for name in self.off if name in FEATURES)

    def arguments(self, path):
        """QEMU's options for it."""
        name = f"n{self.number}"
        device = {"mac": self.mac, "vectors": "0", "romfile": "", **self.device}
        return [
            *("-chardev", f"socket,id=c{name},path={path},server=on,wait=off"),
            *("-netdev", f"vhost-user,id={name},chardev=c{name}"),
            "-device",
            ",".join([f"virtio-net-pci,netdev={name}", *(f"{k}={v}" for k, v in device.items())]),
        ]

    def configure(self, site, guest):
        """Give both ends of its subnet addresses, and each the other's MAC."""
        site.peer.run("ip", "address", "add", f"{self.peer}/24", "dev", "eth0")
        entry = (self.guest, "lladdr", self.mac, "dev", "eth0", "nud", "permanent")
        site.peer.run("ip", "neigh", "replace", *entry)
        found = f"d=$(grep -l {self.mac} /sys/class/net/*/address | cut -d/ -f5)"
        address = f"ip address add {self.guest}/24 dev $d; ip link set $d up"
        guest.run(f"{found}; {address}; arp -i $d -s {self.peer} {PEER_MAC}")


# Where the datapath takes offloads, large frames come to the guests that accept them; where it
# does not, those that they send are finished here.
@pytest.fixture(scope="module", params=[False, True], ids=["split-passed-on", "packed-finished"])
def nics(request, qemu_programs):
    """(site, guest, its NICs by what is off)."""
    packed = request.param
    made = {name: Nic(n, off, packed) for n, (name, off) in enumerate(OFF.items())}
    first, *others = made.values()
    with Site(userspace_tso=not packed) as site, ExitStack() as stack:
        paths = {}
        for nic in made.values():
            paths[nic] = site.host.add_client_port(nic.port)
            stack.callback(site.host.delete_port, nic.port)
        extra = [word for nic in others for word in nic.arguments(paths[nic])]
        assert first.port == PORT
        device = first.device
        guest = site.qemu(paths[first], device=device, extra=extra, memory_mib=512)
        stack.callback(guest.stop)
        guest.start(BOOT_SECONDS)
        for nic in others:
            nic.configure(site, guest)
        yield site, guest, made


@pytest.mark.parametrize("off", OFF)
def test_traffic_with_a_feature_off_and_the_others_on(nics, off):
    site, guest, made = nics
    nic = made[off]
    site.host.wait_status(nic.port, "running")
    site.host.switch.wait_until("Interface", nic.port, "link_state=up")
    every = site.features(made["none"].port)
    assert every & ALL == ALL
    assert bool(every & Feature.RING_PACKED.mask) == nic.packed
    assert site.features(nic.port) == every & ~nic.without
    for size in (57, 1472):
        site.ping(size, guest=nic.guest)
    site.udp(guest, 7000 + nic.number, size=4096, count=20, to=nic.guest)
    site.tcp(guest, SIZE, peer=nic.peer)
    stats = site.stats(nic.port)
    assert not stats["errors"]
    assert stats["queue_pairs"][0]["tx_dropped_faulty"] == 0
