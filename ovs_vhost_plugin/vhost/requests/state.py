# SPDX-License-Identifier: Apache-2.0
"""Handlers of the requests that move the back-end's own state ("Migrating back-end state").

The front-end passes a pipe. After the transfer it asks by CHECK_DEVICE_STATE whether the state
could be used. A refusal is in the reply, so that it costs the migration and not the connection:
the guest stays, or goes on, where it is. Sections cited are those of vhost-user.
"""

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import CheckState, Handling, LoadState, SaveState
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.spec import TransferDirection, TransferPhase
from ovs_vhost_plugin.vhost.state import SessionState


def set_device_state_fd(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Begin a transfer through the front-end's pipe; this back-end never offers its own channel.

    "Migrating back-end state": in the one phase that is specified, all rings are stopped.
    """
    direction, phase = spec.DEVICE_STATE.unpack(payload)
    if direction not in (TransferDirection.SAVE, TransferDirection.LOAD):
        raise PeerError(PeerErrorName.DEVICE_STATE_DIRECTION, str(direction))
    if phase != TransferPhase.STOPPED:
        raise PeerError(PeerErrorName.DEVICE_STATE_PHASE, str(phase))
    if state.started:
        raise PeerError(PeerErrorName.DEVICE_STATE_WHILE_STARTED)
    fd = fds.pop()
    yield SaveState(fd) if direction == TransferDirection.SAVE else LoadState(fd)
    return spec.U64.pack(spec.DEVICE_STATE_NO_FD)


def check_device_state(_state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Answer whether the last transfer succeeded."""
    yield CheckState()
    return spec.U64.pack(0)
