# SPDX-License-Identifier: Apache-2.0
"""Handlers of the requests by which a front-end gets the in-flight region and gives it back.

GET_INFLIGHT_FD: the back-end makes the region. SET_INFLIGHT_FD: the front-end has kept the region,
or has it from another host, and gives it to this back-end before it starts the rings.
"""

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import (
    Handling,
    InflightDescription,
    MakeInflight,
    SetInflight,
)
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.spec import ProtocolFeature
from ovs_vhost_plugin.vhost.state import PostcopyPhase, SessionState


def get_inflight_fd(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Make a region for as many queues, of as many descriptors, as the front-end asks for.

    Its layout is of the rings negotiated by now. The answer is padded as the request is, because
    front-ends check that.
    """
    asked = _description(state, payload)
    answer = yield MakeInflight(asked.queues, asked.queue_size, state.packed)
    assert isinstance(answer, tuple)
    fd, size = answer
    state.reply_fds = (fd,)
    return spec.INFLIGHT.pack(size, 0, asked.queues, asked.queue_size).ljust(len(payload), b"\0")


def set_inflight_fd(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Use the front-end's in-flight region from the rings' next start on."""
    description = _description(state, payload)
    if state.started:
        raise PeerError(PeerErrorName.INFLIGHT_WHILE_STARTED)
    if state.postcopy is PostcopyPhase.LISTENING:
        # A ring's position is then read from the guest's memory, which has not come yet.
        raise PeerError(PeerErrorName.INFLIGHT_WITH_POSTCOPY)
    yield SetInflight(description, fds.pop())
    state.keeps_inflight = True
    return None


def _description(state: SessionState, payload: bytes) -> InflightDescription:
    if len(payload) not in (spec.INFLIGHT.size, spec.INFLIGHT_PADDED):
        raise PeerError(PeerErrorName.PAYLOAD_SIZE, f"what is in flight: {len(payload)} bytes")
    if not state.negotiated(ProtocolFeature.INFLIGHT_SHMFD):
        detail = "what is in flight needs INFLIGHT_SHMFD"
        raise PeerError(PeerErrorName.PROTOCOL_FEATURE_MISSING, detail)
    described = InflightDescription(*spec.INFLIGHT.unpack_from(payload))
    if not 0 < described.queues <= len(state.vrings):
        detail = f"{described.queues} of {len(state.vrings)}"
        raise PeerError(PeerErrorName.INFLIGHT_QUEUES, detail)
    if not 0 < described.queue_size <= spec.MAX_VRING_SIZE:
        raise PeerError(PeerErrorName.INFLIGHT_QUEUE_SIZE, str(described.queue_size))
    return described
