"""An announcement format of one's own: see docs/announce.md."""

import struct

from ovs_vhost_plugin.announce.formats import Guest


def hello(guest: Guest) -> list[bytes]:
    """Say in EtherType 0x88B5 (IEEE 802: for local experiments) which port the guest is behind."""
    header = struct.pack("!6s6sH", b"\xff" * 6, guest.mac, 0x88B5)
    return [(header + guest.port.encode()).ljust(60, b"\0")]
