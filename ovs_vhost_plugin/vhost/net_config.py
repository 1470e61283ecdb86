# SPDX-License-Identifier: Apache-2.0
"""A NIC's configuration space, for front-ends that ask their back-end for it (CONFIG).

virtio 1.2, 5.1.4 "Device configuration layout". A field whose feature is not offered is zeroes or
"unknown", not left out: a front-end copies the whole structure.
"""

from dataclasses import dataclass
from struct import Struct

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName

# mac, status, max_virtqueue_pairs, mtu, speed, duplex, then three of RSS and HASH_REPORT
_LAYOUT = Struct("<6sHHHIBBHI")
assert _LAYOUT.size == 24

# QEMU's VHOST_USER_MAX_CONFIG_SIZE. Bytes behind the structure, of a later virtio, read as 0.
MAX_SIZE = 256
MAC_SIZE = 6

_LINK_UP = 0x1  # 5.1.4, VIRTIO_NET_S_LINK_UP
_SPEED_UNKNOWN, _DUPLEX_UNKNOWN = 0xFFFFFFFF, 0xFF  # 5.1.4: a tap has neither


@dataclass(frozen=True, slots=True)
class NetConfig:
    """The NIC's configuration as this back-end knows it; zeroes in `mac` or `mtu`: not known."""

    mac: bytes
    link_up: bool
    queue_pairs: int
    mtu: int

    def pack(self) -> bytes:
        """The configuration space, `MAX_SIZE` bytes."""
        status = _LINK_UP if self.link_up else 0
        fields = (self.mac, status, self.queue_pairs, self.mtu, _SPEED_UNKNOWN, _DUPLEX_UNKNOWN)
        return _LAYOUT.pack(*fields, 0, 0, 0).ljust(MAX_SIZE, b"\0")

    def written(self, offset: int, data: bytes, port_mtu: int) -> tuple[bytes, int]:
        """The MAC and the MTU after `data` is written at `offset`.

        Raises PeerError for values that no guest of this port can have. Link, speed and duplex
        stay this host's, whatever another host wrote.
        """
        space = self.pack()
        space = space[:offset] + data + space[offset + len(data) :]
        mac, _status, pairs, mtu, *_ = _LAYOUT.unpack_from(space)
        if mac[0] & 1:
            raise PeerError(PeerErrorName.CONFIG_VALUE, f"MAC {mac.hex(':')}")
        if pairs > self.queue_pairs:
            raise PeerError(
                PeerErrorName.CONFIG_VALUE, f"{pairs} of {self.queue_pairs} queue pairs"
            )
        if mtu > port_mtu or 0 < mtu < spec.MIN_MTU:
            raise PeerError(PeerErrorName.CONFIG_VALUE, f"MTU {mtu}, the port carries {port_mtu}")
        return mac, mtu
