# SPDX-License-Identifier: Apache-2.0
"""The features this back-end offers, each with the reason.

Every offload is always offered: where the bridge's datapath cannot take a partial checksum or a
large frame, the data path finishes it in software. So the offer is the same on every host, and a
VM can migrate between any two of them (vhost-user's front-end refuses a destination that lacks a
feature the guest has acknowledged).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TypeVar

from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature
from ovs_vhost_plugin.vhost.withheld import NOTHING, Withheld

_FEATURES = (
    # The device's side of virtio
    Feature.VERSION_1,  # the 12-byte header and the modern layout; without it, legacy
    Feature.ANY_LAYOUT,  # the header may share a descriptor with the frame: chains are byte streams
    Feature.RING_INDIRECT_DESC,  # the chain walk follows one level of indirection
    Feature.RING_EVENT_IDX,  # kicks and calls only where the other side asked for one
    Feature.RING_PACKED,  # one ring that both sides write; without it, split rings
    Feature.ACCESS_PLATFORM,  # an IOMMU before the device: addresses are translated by the IOTLB
    Feature.IN_ORDER,  # chains are used in the order in which they were made available, always
    # vhost's own two bits
    Feature.LOG_ALL,  # live migration: every write to guest memory marks the dirty log
    Feature.PROTOCOL_FEATURES,  # the protocol features below
    # virtio-net's data path
    Feature.MRG_RXBUF,  # a frame may be spread over several receive chains
    Feature.CSUM,  # guest to host, partial checksum
    Feature.GUEST_CSUM,  # host to guest, partial checksum
    Feature.HOST_TSO4,
    Feature.HOST_TSO6,
    Feature.HOST_UFO,
    Feature.HOST_USO,
    Feature.HOST_ECN,
    Feature.GUEST_TSO4,
    Feature.GUEST_TSO6,
    Feature.GUEST_UFO,  # no tap has such frames, but Linux negotiates it wherever it is offered
    Feature.GUEST_USO4,  # a kernel before 6.2 never makes use of these two
    Feature.GUEST_USO6,
    Feature.GUEST_ECN,
    # These change nothing for a back-end, which sees neither configuration space nor control
    # queue. But a front-end offers the guest only features that the back-end offers too.
    Feature.MQ,
    Feature.MAC,
    Feature.STATUS,
    Feature.CTRL_VQ,
    Feature.CTRL_RX,
    Feature.CTRL_RX_EXTRA,
    Feature.CTRL_VLAN,
    Feature.CTRL_MAC_ADDR,
    Feature.GUEST_ANNOUNCE,  # after a migration the guest announces all its addresses itself
    # Not CTRL_GUEST_OFFLOADS: a guest that turns off receive offloads tells the front-end, and
    # no vhost-user message carries it to the back-end.
)

_PROTOCOL_FEATURES = (
    ProtocolFeature.MQ,  # several queue pairs
    ProtocolFeature.LOG_SHMFD,  # without it a front-end refuses to migrate
    ProtocolFeature.RARP,  # SEND_RARP, for guests without GUEST_ANNOUNCE
    ProtocolFeature.REPLY_ACK,  # a refusal can be told instead of closing the connection
    ProtocolFeature.BACKEND_REQ,  # a channel on which this back-end asks and the front-end answers
    ProtocolFeature.INBAND_NOTIFICATIONS,  # messages where a front-end gave no eventfd
    ProtocolFeature.RESET_DEVICE,  # the guest's driver resets the NIC, the front-end stays
    ProtocolFeature.STATUS,  # whether features were accepted, whether a ring broke
    ProtocolFeature.CONFIGURE_MEM_SLOTS,  # hundreds of regions, added and removed one by one
    ProtocolFeature.PAGEFAULT,  # the guest moves first, its memory follows
    ProtocolFeature.INFLIGHT_SHMFD,  # a front-end may keep the record of in-flight chains
    ProtocolFeature.GET_VRING_BASE_INFLIGHT,  # chains another back-end left in flight may stay so
    ProtocolFeature.DEVICE_STATE,  # the guest's learned addresses move with it, if asked for
    # Not CONFIG, unless asked for: QEMU keeps a NIC's configuration itself, and warns of CONFIG.
)

# Each feature needs one of these others (virtio 1.2, 5.1.3.1). The order is one in which features
# can be left out.
_NEEDS: dict[Feature, tuple[Feature, ...]] = {
    Feature.GUEST_TSO4: (Feature.GUEST_CSUM,),
    Feature.GUEST_TSO6: (Feature.GUEST_CSUM,),
    Feature.GUEST_UFO: (Feature.GUEST_CSUM,),
    Feature.GUEST_USO4: (Feature.GUEST_CSUM,),
    Feature.GUEST_USO6: (Feature.GUEST_CSUM,),
    Feature.GUEST_ECN: (Feature.GUEST_TSO4, Feature.GUEST_TSO6),
    Feature.HOST_TSO4: (Feature.CSUM,),
    Feature.HOST_TSO6: (Feature.CSUM,),
    Feature.HOST_UFO: (Feature.CSUM,),
    Feature.HOST_USO: (Feature.CSUM,),
    Feature.HOST_ECN: (Feature.HOST_TSO4, Feature.HOST_TSO6),
    Feature.CTRL_RX: (Feature.CTRL_VQ,),
    Feature.CTRL_RX_EXTRA: (Feature.CTRL_VQ,),
    Feature.CTRL_VLAN: (Feature.CTRL_VQ,),
    Feature.GUEST_ANNOUNCE: (Feature.CTRL_VQ,),
    Feature.MQ: (Feature.CTRL_VQ,),
    Feature.CTRL_MAC_ADDR: (Feature.CTRL_VQ,),
}
# The same for protocol features (vhost-user "Protocol features").
_PROTOCOL_NEEDS: dict[ProtocolFeature, tuple[ProtocolFeature, ...]] = {
    ProtocolFeature.GET_VRING_BASE_INFLIGHT: (ProtocolFeature.INFLIGHT_SHMFD,),
    ProtocolFeature.INBAND_NOTIFICATIONS: (ProtocolFeature.BACKEND_REQ,),
}

_Bit = TypeVar("_Bit", Feature, ProtocolFeature)


@dataclass(frozen=True, slots=True)
class Nic:
    """MAC (6 bytes) and link, for a front-end that asks for the NIC's configuration (CONFIG)."""

    mac: bytes | None = None
    link_up: bool = True


@dataclass(frozen=True, slots=True)
class Offer:
    """One port's offer to its front-end: two bit masks, queue pairs, MTU in bytes or None.

    nic: MAC and link for the configuration space; None: CONFIG is not offered.
    any_memory: guest memory may be in files of any kind, not only of shmem and hugetlbfs.
    """

    features: int
    protocol_features: int
    queue_pairs: int
    mtu: int | None
    nic: Nic | None = None
    any_memory: bool = False


def offer(
    queue_pairs: int,
    mtu: int | None,
    *,
    device_state: bool = True,
    postcopy: bool = True,
    nic: Nic | None = None,
    any_memory: bool = False,
    withheld: Withheld = NOTHING,
) -> Offer:
    """The offer of a port with `queue_pairs` pairs; the MTU bits only for a port that has one.

    DEVICE_STATE is left out unless asked for: a guest that has it can only move to a host whose
    back-end and front-end have it too. PAGEFAULT is left out unless asked for, and where no
    userfaultfd can be had. With `nic` the NIC's configuration space is offered; a guest that is
    offered no MAC makes one up (virtio 1.2, 5.1.5). `withheld` features, and features that need
    them, are never offered.
    """
    features = reduce(or_, (bit.mask for bit in _FEATURES))
    protocol_features = reduce(or_, (bit.mask for bit in _PROTOCOL_FEATURES))
    if not device_state:
        protocol_features &= ~ProtocolFeature.DEVICE_STATE.mask
    if not postcopy:
        protocol_features &= ~ProtocolFeature.PAGEFAULT.mask
    if mtu is not None:
        features |= Feature.MTU.mask
        protocol_features |= ProtocolFeature.MTU.mask
    if nic is not None:
        protocol_features |= ProtocolFeature.CONFIG.mask
        if nic.mac is None:
            features &= ~Feature.MAC.mask
    features = _without(features, withheld.features, _NEEDS)
    protocol_features = _without(protocol_features, withheld.protocol_features, _PROTOCOL_NEEDS)
    return Offer(features, protocol_features, queue_pairs, mtu, nic, any_memory)


def _without(offered: int, withheld: int, needs: Mapping[_Bit, tuple[_Bit, ...]]) -> int:
    """The offered bits without the withheld ones and those that need them.

    "The device MUST NOT offer a feature which requires another feature which was not offered"
    (virtio 1.2, 2.2.1).
    """
    offered &= ~withheld
    for bit, others in needs.items():
        if not any(offered & other.mask for other in others):
            offered &= ~bit.mask
    return offered
