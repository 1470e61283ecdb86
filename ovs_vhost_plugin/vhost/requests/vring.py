# SPDX-License-Identifier: Apache-2.0
"""Handlers of the requests that set up, start, enable and stop one vring.

A handler checks, changes the VringState and yields ReconfigureVring; `_change` undoes the change
if the device cannot run the ring with it. Sections cited are those of vhost-user.
"""

from collections.abc import Generator

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import Effect, Handling, KickVring, ReconfigureVring, StopVring
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.fds.eventfd import new_eventfd
from ovs_vhost_plugin.vhost.spec import ProtocolFeature, VringAddressFlag
from ovs_vhost_plugin.vhost.state import SessionState, VringState


def set_num(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Set the ring's size: at most 32768 (virtio 2.8), and a power of two if split (2.7)."""
    index, size = spec.VRING_STATE.unpack(payload)
    vring = _stopped_vring(state, index)
    if size == 0:
        raise PeerError(PeerErrorName.VRING_SIZE_ZERO, f"vring {index}")
    if size > spec.MAX_VRING_SIZE:
        raise PeerError(PeerErrorName.VRING_SIZE_TOO_LARGE, f"vring {index}: {size}")
    if size & (size - 1) and not state.packed:
        raise PeerError(PeerErrorName.VRING_SIZE_NOT_POWER_OF_TWO, f"vring {index}: {size}")
    yield from _change(vring, size=size)
    return None


def set_addr(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Set addresses and flags; sent again on a running ring to switch logging of its used ring."""
    index, flags, desc, used, avail, log = spec.VRING_ADDR.unpack(payload)
    vring = _vring(state, index)
    if flags & ~VringAddressFlag.LOG.value:
        raise PeerError(PeerErrorName.VRING_FLAGS, f"vring {index}: {flags:#x}")
    for part, address, align in (
        ("descriptor table", desc, spec.DESC_ALIGN),
        ("avail ring", avail, spec.AVAIL_ALIGN),
        ("used ring", used, spec.USED_ALIGN),
    ):
        if address % align:
            detail = f"vring {index}: {part} at {address:#x}"
            raise PeerError(PeerErrorName.VRING_MISALIGNED, detail)
    if flags and log + spec.used_bytes(spec.MAX_VRING_SIZE) > 1 << 64:
        detail = f"vring {index}: used ring logged at {log:#x}"
        raise PeerError(PeerErrorName.VRING_ADDRESS_WRAPS, detail)
    yield from _change(
        vring,
        addressed=True,
        desc_user=desc,
        avail_user=avail,
        used_user=used,
        flags=flags,
        log_guest=log,
    )
    return None


def set_base(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Set the next avail index: for a split ring a free-running 16-bit number.

    The meaning of a packed ring's base depends on the ring's size (`packed_base.py`).
    """
    index, base = spec.VRING_STATE.unpack(payload)
    vring = _stopped_vring(state, index)
    if base > 0xFFFF and not state.packed:
        raise PeerError(PeerErrorName.VRING_BASE_RANGE, f"vring {index}: {base:#x}")
    yield from _change(vring, base=base, base_told=True)
    return None


def get_base(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Stop the ring and answer its next avail index, also for a ring that was never started.

    The request's `num` is reserved; older front-ends leave anything in it. The kick fd is closed:
    the next SET_VRING_KICK starts the ring again. The call fd stays: no specification closes it,
    and front-ends that send it again replace it.
    """
    index, _reserved = spec.VRING_STATE.unpack(payload)
    vring = _vring(state, index)
    base = yield StopVring(index)
    vring.started = False
    if isinstance(base, int):
        vring.base = base
    if vring.kick_fd >= 0:
        kick_fd, vring.kick_fd = vring.kick_fd, -1
        close_fds([kick_fd])
    vring.kick_told = False
    return spec.VRING_STATE.pack(index, vring.base)


def set_kick(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Set the kick fd, or none for polling, and start the ring ("Ring states").

    The ring starts here and not at its first kick, which an earlier back-end may have consumed; a
    ring without buffers costs nothing.
    """
    vring, fd = _vring_fd(state, payload, fds)
    own = _own_eventfds(state, vring)
    yield from _change(vring, kick_fd=fd, kick_told=True, started=True, **own)
    return None


def kick(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Wake the ring in band (VHOST_USER_VRING_KICK), and start it if it is stopped.

    An eventfd that SET_VRING_KICK gave "will be preferred over the message".
    """
    index, reserved = spec.VRING_STATE.unpack(payload)
    if not state.negotiated(ProtocolFeature.INBAND_NOTIFICATIONS):
        detail = "VRING_KICK needs INBAND_NOTIFICATIONS"
        raise PeerError(PeerErrorName.PROTOCOL_FEATURE_MISSING, detail)
    if reserved:
        raise PeerError(PeerErrorName.VRING_RESERVED_BITS, f"vring {index}: {reserved:#x}")
    vring = _vring(state, index)
    if not vring.started:
        own = _own_eventfds(state, vring)
        yield from _change(vring, kick_fd=new_eventfd(), started=True, **own)
    if vring.inband_kick:
        yield KickVring(index)
    return None


def set_call(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Set the call fd, or none; QEMU changes it on a running ring to mask interrupts."""
    vring, fd = _vring_fd(state, payload, fds)
    yield from _change(vring, call_fd=fd, call_told=True)
    return None


def set_err(state: SessionState, payload: bytes, fds: list[int]) -> Handling:
    """Set the fd that tells the front-end of a broken ring, or none."""
    vring, fd = _vring_fd(state, payload, fds)
    yield from _change(vring, err_fd=fd, err_told=True)
    return None


def set_enable(state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Enable or disable the ring.

    QEMU sends this before SET_FEATURES has acknowledged PROTOCOL_FEATURES, though it "should be
    sent only when negotiated"; so it is enough that PROTOCOL_FEATURES was offered.
    """
    index, enable = spec.VRING_STATE.unpack(payload)
    vring = _vring(state, index)
    if enable > 1:
        raise PeerError(PeerErrorName.VRING_ENABLE_VALUE, f"vring {index}: {enable}")
    yield from _change(vring, enabled=bool(enable), enable_told=True)
    state.enables_unasked = not state.acknowledges
    return None


def enable_all(state: SessionState, enabled: bool) -> Generator[Effect, object, None]:
    """Enable or disable every ring whose state differs."""
    for vring in state.vrings:
        if vring.enabled != enabled:
            yield from _change(vring, enabled=enabled, enable_told=True)


def _vring(state: SessionState, index: int) -> VringState:
    if index >= len(state.vrings):
        raise PeerError(PeerErrorName.VRING_INDEX, f"{index} of {len(state.vrings)}")
    return state.vrings[index]


def _stopped_vring(state: SessionState, index: int) -> VringState:
    """The vring, stopped, so that its size and base may change. Raises PeerError."""
    vring = _vring(state, index)
    if vring.ready():
        raise PeerError(PeerErrorName.VRING_STARTED, f"vring {index}")
    return vring


def _vring_fd(state: SessionState, payload: bytes, fds: list[int]) -> tuple[VringState, int]:
    """The vring and fd (-1: none) of SET_VRING_KICK, _CALL and _ERR; bit 8 says no fd comes."""
    (value,) = spec.U64.unpack(payload)
    if value & ~(spec.VRING_INDEX_MASK | spec.VRING_NO_FD):
        raise PeerError(PeerErrorName.VRING_RESERVED_BITS, f"{value:#x}")
    vring = _vring(state, value & spec.VRING_INDEX_MASK)
    if value & spec.VRING_NO_FD:
        if fds:
            raise PeerError(PeerErrorName.FDS_UNEXPECTED, f"vring {vring.index}: marked as none")
        return vring, -1
    if not fds:
        raise PeerError(PeerErrorName.FDS_MISSING, f"vring {vring.index}")
    return vring, fds.pop()


def _own_eventfds(state: SessionState, vring: VringState) -> dict[str, int]:
    """Eventfds of our own for a starting ring, for calls and errors to be sent as messages.

    With in-band notifications it "isn't necessary" to send SET_VRING_CALL and SET_VRING_ERR. A
    front-end that has sent one gets what it asked for, also polling.
    """
    if not state.negotiated(ProtocolFeature.INBAND_NOTIFICATIONS):
        return {}
    own = {"call_fd": vring.call_told, "err_fd": vring.err_told}
    return {
        name: new_eventfd() for name, told in own.items() if not told and getattr(vring, name) < 0
    }


def _change(vring: VringState, **changes: int) -> Generator[Effect, object, None]:
    """Change fields of `vring` and reconfigure the device's ring.

    Replaced fds are closed afterwards: until then the data path polls them. If the device
    refuses, the fields get their old values back. A ring that was running is then in no defined
    state, so the error is fatal.
    """
    was_running = vring.ready()
    before = {name: getattr(vring, name) for name in changes}
    _assign(vring, changes)
    outdated = before
    try:
        yield ReconfigureVring(vring.index)
    except PeerError as error:
        error.fatal = error.fatal or was_running
        _assign(vring, before)
        outdated = changes
        raise
    finally:
        close_fds([fd for name, fd in outdated.items() if name.endswith("_fd") and fd >= 0])


def _assign(vring: VringState, values: dict[str, int]) -> None:
    for name, value in values.items():
        setattr(vring, name, value)
