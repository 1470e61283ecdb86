# SPDX-License-Identifier: Apache-2.0
"""The handler of the request that opens the channel back to the front-end."""

from ovs_vhost_plugin.vhost.effects import Handling, OpenBackendChannel
from ovs_vhost_plugin.vhost.spec import ProtocolFeature
from ovs_vhost_plugin.vhost.state import SessionState


def set_backend_req_fd(state: SessionState, _payload: bytes, fds: list[int]) -> Handling:
    """Take the socket for the back-end's requests; a second one replaces the first."""
    yield OpenBackendChannel(fds.pop(), state.negotiated(ProtocolFeature.REPLY_ACK))
    return None
