# SPDX-License-Identifier: Apache-2.0
"""Handlers of the requests that read and write the NIC's configuration space (CONFIG).

Sections cited are those of vhost-user, "Virtio device config space" and "Front-end message types".
"""

from collections.abc import Generator

from ovs_vhost_plugin.vhost import net_config, spec
from ovs_vhost_plugin.vhost.effects import ConfigChanged, Effect, Handling
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.spec import ConfigFlag, Feature, ProtocolFeature
from ovs_vhost_plugin.vhost.state import SessionState


def get_config(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Answer a part of the configuration space, as large as the request ("GET_CONFIG")."""
    offset, size, flags = _access(state, payload)
    yield from ()
    content = state.net_config.pack()[offset : offset + size]
    return spec.CONFIG.pack(offset, size, flags) + content


def set_config(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Take a write by the guest, or by its host in a migration ("SET_CONFIG").

    A guest may write one field, its MAC, and only as a legacy guest (virtio 1.2, 5.1.4.3). A
    migration may write all fields, of which the MAC and the MTU are kept.
    """
    offset, size, flags = _access(state, payload)
    data = payload[spec.CONFIG.size :]
    writable = 0 if state.features & Feature.VERSION_1.mask else net_config.MAC_SIZE
    if flags != ConfigFlag.MIGRATION and offset + size > writable:
        raise PeerError(PeerErrorName.CONFIG_READ_ONLY, f"{size} bytes at {offset}")
    mac, mtu = state.net_config.written(offset, data, state.port_mtu)
    yield from ()
    state.mac = mac
    if flags == ConfigFlag.MIGRATION:
        state.guest_mtu = mtu
    return None


def settle_mtu(state: SessionState) -> Generator[Effect, object, None]:
    """Fix or release the guest's MTU after SET_FEATURES: a driver that has the MTU keeps it.

    virtio 1.2, 5.1.4.1: "The device MUST NOT modify mtu once it has been set."
    """
    before = state.net_config
    if not state.features & Feature.MTU.mask:
        state.guest_mtu = None
    elif state.guest_mtu is None:
        state.guest_mtu = state.port_mtu
    if state.net_config != before:
        yield ConfigChanged()


def _access(state: SessionState, payload: bytes) -> tuple[int, int, int]:
    """The checked offset, size and flags of either request."""
    if not state.negotiated(ProtocolFeature.CONFIG):
        raise PeerError(PeerErrorName.PROTOCOL_FEATURE_MISSING, "CONFIG was not acknowledged")
    if len(payload) < spec.CONFIG.size:
        raise PeerError(PeerErrorName.PAYLOAD_SIZE, f"configuration: {len(payload)} bytes")
    offset, size, flags = spec.CONFIG.unpack_from(payload)
    if len(payload) != spec.CONFIG.size + size:
        detail = f"configuration: {len(payload)} bytes for {size}"
        raise PeerError(PeerErrorName.PAYLOAD_SIZE, detail)
    if size == 0 or offset + size > net_config.MAX_SIZE:
        raise PeerError(PeerErrorName.CONFIG_RANGE, f"{size} bytes at {offset}")
    if flags not in (ConfigFlag.WRITABLE, ConfigFlag.MIGRATION):
        raise PeerError(PeerErrorName.CONFIG_FLAGS, f"{flags:#x}")
    return offset, size, flags
