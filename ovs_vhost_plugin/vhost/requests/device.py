# SPDX-License-Identifier: Apache-2.0
"""Handlers of the requests that concern the whole device: features, memory, log, network.

Each handler checks its payload completely before its first effect, so that a refused request has
changed nothing. Sections cited are those of vhost-user, "Front-end message types".
"""

from collections.abc import Generator, Sequence

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import (
    AcknowledgeBases,
    AddMemoryRegion,
    Effect,
    Handling,
    MemoryRegion,
    RemoveMemoryRegion,
    SendRarp,
    SetFeatures,
    SetLog,
    SetMemoryTable,
    SetMtu,
)
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.requests.config import settle_mtu
from ovs_vhost_plugin.vhost.requests.vring import enable_all
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature
from ovs_vhost_plugin.vhost.state import PostcopyPhase, SessionState


def get_features(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Answer the features this port offers."""
    yield from ()
    return spec.U64.pack(state.offer.features)


def set_features(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Take the acknowledged features; LOG_ALL may be toggled while rings run ("Migration")."""
    (features,) = spec.U64.unpack(payload)
    excess = features & ~state.offer.features
    state.features_refused = bool(excess)
    if excess:
        raise PeerError(PeerErrorName.FEATURES_NOT_OFFERED, f"{excess:#x}")
    changed = (features ^ state.features) & ~Feature.LOG_ALL.mask
    if changed and state.started:
        raise PeerError(PeerErrorName.FEATURES_WHILE_STARTED, f"{changed:#x} changed")
    state.features = features
    try:
        yield SetFeatures(features)
        yield from settle_mtu(state)
        if not features & Feature.PROTOCOL_FEATURES.mask:
            # "Ring states": then the back-end must enable all rings immediately.
            yield from enable_all(state, True)
    except PeerError as error:
        error.fatal = True  # some rings may run with the new features, others not at all
        raise
    return None


def get_protocol_features(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Answer the protocol features this port offers, also before SET_FEATURES."""
    yield from ()
    return spec.U64.pack(state.offer.protocol_features)


def set_protocol_features(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Take the acknowledged protocol features; repeated by QEMU for each queue pair."""
    (features,) = spec.U64.unpack(payload)
    excess = features & ~state.offer.protocol_features
    if excess:
        raise PeerError(PeerErrorName.PROTOCOL_FEATURES_NOT_OFFERED, f"{excess:#x}")
    inband = ProtocolFeature.INBAND_NOTIFICATIONS.mask
    channel = ProtocolFeature.BACKEND_REQ.mask | ProtocolFeature.REPLY_ACK.mask
    if features & inband and features & channel != channel:
        # "In-band notifications": "the back-end should close the connection as a response".
        raise PeerError(PeerErrorName.INBAND_WITHOUT_CHANNEL, f"{features:#x}", fatal=True)
    region = ProtocolFeature.INFLIGHT_SHMFD.mask
    if features & ProtocolFeature.GET_VRING_BASE_INFLIGHT.mask and not features & region:
        raise PeerError(PeerErrorName.INFLIGHT_BASE_WITHOUT_REGION, f"{features:#x}")
    yield from ()
    state.protocol_features = features
    return None


def set_owner(_state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Accept the start of the session: the connection has one front-end anyway."""
    yield from ()
    return None


def reset_owner(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Disable all rings and keep all else, as recommended for this deprecated request."""
    yield from enable_all(state, False)
    return None


def set_mem_table(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Take a new memory table, with as many fds as the payload has regions."""
    if _acknowledges_bases(state, payload, fds):
        return (yield from _take_acknowledgement(state))
    if len(payload) < spec.MEMORY_HEADER.size:
        raise PeerError(PeerErrorName.PAYLOAD_SIZE, f"SET_MEM_TABLE: {len(payload)} bytes")
    count, _padding = spec.MEMORY_HEADER.unpack_from(payload)
    if count == 0:
        raise PeerError(PeerErrorName.REGIONS_NONE)
    if count > spec.MAX_REGIONS:
        raise PeerError(PeerErrorName.REGIONS_TOO_MANY, str(count))
    end = spec.MEMORY_HEADER.size + count * spec.MEMORY_REGION.size
    # The payload may have room for more regions than it uses: User Mode Linux always sends two.
    most = spec.MEMORY_HEADER.size + spec.MAX_REGIONS * spec.MEMORY_REGION.size
    if not end <= len(payload) <= most:
        detail = f"SET_MEM_TABLE: {len(payload)} bytes for {count} regions"
        raise PeerError(PeerErrorName.PAYLOAD_SIZE, detail)
    if len(fds) != count:
        raise PeerError(PeerErrorName.REGIONS_FDS_DIFFER, f"{count} regions, {len(fds)} fds")
    body = payload[spec.MEMORY_HEADER.size : end]
    regions = tuple(MemoryRegion(*fields) for fields in spec.MEMORY_REGION.iter_unpack(body))
    taken = tuple(fds)
    fds.clear()
    bases = yield from _map(state, SetMemoryTable(regions, taken))
    if bases is None:
        return None
    return payload[: spec.MEMORY_HEADER.size] + b"".join(
        spec.MEMORY_REGION.pack(r.guest_address, r.size, base, r.mmap_offset)
        for r, base in zip(regions, bases, strict=True)
    )


def get_max_mem_slots(_state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Answer the most regions at once."""
    yield from ()
    return spec.U64.pack(spec.MAX_MEM_SLOTS)


def add_mem_reg(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Take one more region, in the file whose fd came with the request."""
    if _acknowledges_bases(state, payload, fds):
        return (yield from _take_acknowledgement(state))
    if len(payload) != spec.SINGLE_REGION.size:
        raise PeerError(PeerErrorName.PAYLOAD_SIZE, f"ADD_MEM_REG: {len(payload)} bytes")
    if not fds:
        raise PeerError(PeerErrorName.FDS_MISSING, "ADD_MEM_REG")
    padding, *fields = spec.SINGLE_REGION.unpack(payload)
    region = MemoryRegion(*fields)
    bases = yield from _map(state, AddMemoryRegion(region, fds.pop()))
    if bases is None:
        return None
    return spec.SINGLE_REGION.pack(
        padding, region.guest_address, region.size, bases[0], region.mmap_offset
    )


def _map(
    state: SessionState, effect: SetMemoryTable | AddMemoryRegion
) -> Generator[Effect, object, Sequence[int] | None]:
    """Map memory; return its addresses if it comes by postcopy and they are to be answered.

    "In postcopy mode NEED_REPLY is not set": a front-end that sets it, as QEMU 7.2 does for the
    second of two queue pairs, knows the addresses already and awaits an acknowledgement.
    """
    tell = state.postcopy is PostcopyPhase.LISTENING and not state.acknowledges
    before, state.bases_pending = state.bases_pending, state.bases_pending or tell
    try:
        bases = yield effect
    except PeerError:
        state.bases_pending = before
        raise
    state.sent_memory = True
    if not tell:
        return None
    assert isinstance(bases, tuple)
    return bases


def _acknowledges_bases(state: SessionState, payload: bytes, fds: list[int]) -> bool:
    """Whether the request is "an empty message as an acknowledgement"; QEMU's has a u64 of 0."""
    listening = state.postcopy is PostcopyPhase.LISTENING
    return listening and not fds and payload in (b"", bytes(spec.U64.size))


def _take_acknowledgement(state: SessionState) -> Handling:
    """Take the front-end's acknowledgement, sent once for all regions: memory may be touched."""
    state.bases_pending = False
    yield AcknowledgeBases()
    return None


def rem_mem_reg(_state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Remove a region. An fd beside it is closed: "existing incorrect implementations"."""
    _padding, *fields = spec.SINGLE_REGION.unpack(payload)
    yield RemoveMemoryRegion(MemoryRegion(*fields))
    return None


def set_log_base(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Take a new dirty log; always answered, as LOG_SHMFD demands ("Communication").

    Without LOG_SHMFD the payload would be an address of the front-end, of no use here.
    """
    if not state.negotiated(ProtocolFeature.LOG_SHMFD):
        raise PeerError(PeerErrorName.PROTOCOL_FEATURE_MISSING, "SET_LOG_BASE needs LOG_SHMFD")
    size, offset = spec.LOG.unpack(payload)
    yield SetLog(size, offset, fds.pop())
    # The answer's size differs among back-ends (0, 8, 16); front-ends that check it want 8.
    return spec.U64.pack(0)


def get_queue_num(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Answer the most queue pairs: for a NIC, QEMU and DPDK both count pairs, not vrings."""
    yield from ()
    state.counted_pairs = True
    return spec.U64.pack(state.offer.queue_pairs)


def send_rarp(_state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Announce a MAC: the first 6 bytes of the payload as they lie in memory."""
    mac = payload[:6]
    if not any(mac):
        raise PeerError(PeerErrorName.RARP_MAC_ZERO)
    if mac[0] & 1:  # IEEE 802 group bit; a switch must never learn such an address
        raise PeerError(PeerErrorName.RARP_MAC_MULTICAST, mac.hex(":"))
    yield SendRarp(mac)
    return None


def net_set_mtu(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Check the MTU that the guest will see, and answer whether it is valid.

    QEMU sends this before SET_FEATURES, so VIRTIO_NET_F_MTU is not yet acknowledged here.
    """
    (mtu,) = spec.U64.unpack(payload)
    if not spec.MIN_MTU <= mtu <= spec.MAX_MTU:
        raise PeerError(PeerErrorName.MTU_RANGE, str(mtu))
    most = state.offer.mtu
    if most is not None and mtu > most:
        raise PeerError(PeerErrorName.MTU_TOO_LARGE, f"{mtu}, the port carries {most}")
    yield SetMtu(mtu)
    return None
