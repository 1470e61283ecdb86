# SPDX-License-Identifier: Apache-2.0
"""Handlers of a device's status and of its reset, whose rules are virtio's.

The status does not control rings: in vhost-user those start by SET_VRING_KICK and stop by
GET_VRING_BASE or RESET_DEVICE, whatever the status. A back-end changes two bits of it:
FEATURES_OK is clear after features were refused, DEVICE_NEEDS_RESET is set after a ring broke.
"""

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import Handling, SetFeatures, StopVring
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.requests.config import settle_mtu
from ovs_vhost_plugin.vhost.spec import DeviceStatus
from ovs_vhost_plugin.vhost.state import SessionState

_MAX_STATUS = 0xFF  # virtio 1.2, 4.1.4.3: device_status is a byte


def set_status(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Take the driver's status; 0 is a reset (virtio 1.2, 2.1), clearing DEVICE_NEEDS_RESET."""
    (status,) = spec.U64.unpack(payload)
    if status > _MAX_STATUS:
        raise PeerError(PeerErrorName.STATUS_VALUE, f"{status:#x}")
    yield from ()
    if not status:
        state.needs_reset = False
    state.status = status & ~DeviceStatus.DEVICE_NEEDS_RESET.value
    return None


def get_status(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Answer the status as the driver set it, with the back-end's two bits.

    virtio 1.2, 3.1.1: the driver reads FEATURES_OK back to see whether its features were accepted;
    2.1.2: a device that cannot go on without a reset should say so.
    """
    yield from ()
    status = state.status
    if state.features_refused:
        status &= ~DeviceStatus.FEATURES_OK.value
    if state.needs_reset:
        status |= DeviceStatus.DEVICE_NEEDS_RESET.value
    return spec.U64.pack(status)


def reset_device(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Stop and disable all rings, and forget the guest driver's settings.

    The front-end's settings stay: memory, log, protocol features, and the fds by which it is
    called. Front-ends remember which memory slots they have filled, and do not fill them again.
    """
    for vring in state.vrings:
        vring.enabled = False
    for vring in state.vrings:
        if vring.started:
            yield StopVring(vring.index)
        kick_fd = vring.reset()
        if kick_fd >= 0:
            close_fds([kick_fd])
    state.features = state.status = 0
    state.features_refused = state.needs_reset = False
    yield SetFeatures(0)
    yield from settle_mtu(state)
    return None
