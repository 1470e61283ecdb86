# SPDX-License-Identifier: Apache-2.0
"""A front-end's set-up as the messages that set it up: a session that takes them is the same.

So what a worker gives to its successor passes the checks that a front-end's messages pass, and
nobody has to keep a second list of what a session remembers. `GivenFrontEnd` and `GivenRing` have
the little that no message sets.
"""

from collections.abc import Iterator

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import MemoryRegion
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.spec import FrontendRequest
from ovs_vhost_plugin.vhost.state import VringState
from ovs_vhost_plugin.worker.device.device import Device
from ovs_vhost_plugin.worker.device.resources import RingResources


def requests(device: Device) -> Iterator[Message]:
    """The messages; their fds stay the device's and the session's.

    Features come before the back-end channel, which would tell the front-end of a change; and all
    comes before the rings, as rings that are set up run.
    """
    resources = device.resources
    session = resources.session
    assert session is not None
    if session.protocol_features:
        yield _u64(FrontendRequest.SET_PROTOCOL_FEATURES, session.protocol_features)
    if session.features:
        yield _u64(FrontendRequest.SET_FEATURES, session.features)
    yield from _memory(resources)
    if device.mtu is not None and spec.MIN_MTU <= device.mtu <= spec.MAX_MTU:
        yield _u64(FrontendRequest.NET_SET_MTU, device.mtu)
    if device.channel.is_open:
        yield Message(FrontendRequest.SET_BACKEND_REQ_FD, fds=(device.channel.fileno(),))
    for vring in session.vrings:
        yield from _vring(vring)


def _memory(resources: RingResources) -> Iterator[Message]:
    files = [] if resources.memory is None else resources.memory.files
    first, rest = files[: spec.MAX_REGIONS], files[spec.MAX_REGIONS :]
    if first:
        payload = spec.MEMORY_HEADER.pack(len(first), 0) + b"".join(
            spec.MEMORY_REGION.pack(*_fields(region)) for region, _ in first
        )
        fds = tuple(fd for _, fd in first)
        yield Message(FrontendRequest.SET_MEM_TABLE, payload, fds=fds)
    for region, fd in rest:
        payload = spec.SINGLE_REGION.pack(0, *_fields(region))
        yield Message(FrontendRequest.ADD_MEM_REG, payload, fds=(fd,))
    if (log := resources.log) is not None:
        payload = spec.LOG.pack(*log.place)
        yield Message(FrontendRequest.SET_LOG_BASE, payload, fds=(log.fd.number,))
    if (kept := resources.inflight) is not None:
        about = kept.description
        payload = spec.INFLIGHT.pack(about.size, about.offset, about.queues, about.queue_size)
        yield Message(FrontendRequest.SET_INFLIGHT_FD, payload, fds=(kept.fd.number,))


def _vring(vring: VringState) -> Iterator[Message]:
    index = vring.index
    if vring.size:
        yield _state(FrontendRequest.SET_VRING_NUM, index, vring.size)
    if vring.addressed:
        addresses = vring.desc_user, vring.used_user, vring.avail_user, vring.log_guest
        payload = spec.VRING_ADDR.pack(index, vring.flags, *addresses)
        yield Message(FrontendRequest.SET_VRING_ADDR, payload)
    if vring.base_told:
        yield _state(FrontendRequest.SET_VRING_BASE, index, vring.base)
    if vring.call_told:
        yield _fd(FrontendRequest.SET_VRING_CALL, index, vring.call_fd)
    if vring.err_told:
        yield _fd(FrontendRequest.SET_VRING_ERR, index, vring.err_fd)
    if vring.started and vring.kick_told:
        yield _fd(FrontendRequest.SET_VRING_KICK, index, vring.kick_fd)
    elif vring.started:
        yield _state(FrontendRequest.VRING_KICK, index, 0)
    if vring.enable_told:
        yield _state(FrontendRequest.SET_VRING_ENABLE, index, vring.enabled)


def _fields(region: MemoryRegion) -> tuple[int, int, int, int]:
    return region.guest_address, region.size, region.user_address, region.mmap_offset


def _u64(request: FrontendRequest, value: int) -> Message:
    return Message(request, spec.U64.pack(value))


def _state(request: FrontendRequest, index: int, value: int) -> Message:
    return Message(request, spec.VRING_STATE.pack(index, value))


def _fd(request: FrontendRequest, index: int, fd: int) -> Message:
    if fd < 0:
        return Message(request, spec.U64.pack(index | spec.VRING_NO_FD))
    return Message(request, spec.U64.pack(index), fds=(fd,))
