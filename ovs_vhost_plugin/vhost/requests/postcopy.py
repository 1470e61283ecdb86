# SPDX-License-Identifier: Apache-2.0
"""Handlers of the requests by which a guest moves first and its memory follows (PAGEFAULT).

ADVISE, while the memory is still copied: the front-end gets a userfaultfd. LISTEN: from now on
memory comes with its pages missing. Each region is answered with the address at which it is mapped
here, by which the front-end interprets faults. When the front-end has all addresses it
acknowledges, and only then may memory be touched (`vhost/requests/device.py`). END: all pages have
come. QEMU sends each of the three once for each queue pair, and all first ones before any second.
Sections cited are those of vhost-user, "Front-end message types".
"""

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import (
    AcknowledgeBases,
    AdvisePostcopy,
    EndPostcopy,
    Handling,
    ListenPostcopy,
)
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.state import PostcopyPhase, SessionState


def advise(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Answer a userfaultfd, without a payload.

    QEMU 10.0 sends memory for its first pair only, and then waits without end for answers to
    requests that it has not sent: the guest is lost. If it is refused now, the guest goes on at
    the source. QEMU 7.2 sends memory for each pair. It is known by its SET_VRING_ENABLE, which asks
    for no acknowledgement, where 10.0's does; either sends it while it waits for the guest.
    """
    if state.postcopy is PostcopyPhase.ADVISED and not state.enables_unasked:
        detail = "this QEMU loses a guest with several queue pairs: use one, or precopy"
        raise PeerError(PeerErrorName.POSTCOPY_SEVERAL_PAIRS, detail)
    listening = state.postcopy is PostcopyPhase.LISTENING
    if not listening:
        state.postcopy = PostcopyPhase.OFF
    fd = yield AdvisePostcopy()
    assert isinstance(fd, int)
    if not listening:
        state.postcopy = PostcopyPhase.ADVISED
    state.reply_fds = (fd,)
    return b""


def listen(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """Expect memory with missing pages."""
    if state.postcopy is PostcopyPhase.ADVISED:
        if state.keeps_inflight:
            raise PeerError(PeerErrorName.INFLIGHT_WITH_POSTCOPY)
        yield ListenPostcopy()
        state.postcopy = PostcopyPhase.LISTENING
    elif state.postcopy is not PostcopyPhase.LISTENING:
        raise PeerError(PeerErrorName.POSTCOPY_NOT_ADVISED)
    return None


def end(state: SessionState, _payload: bytes, _fds: list[int]) -> Handling:
    """End postcopy. "The value returned is an error indication; 0 is success"."""
    if state.postcopy is PostcopyPhase.LISTENING:
        state.postcopy = PostcopyPhase.ENDED
        yield EndPostcopy()
    elif state.postcopy is not PostcopyPhase.ENDED:
        raise PeerError(PeerErrorName.POSTCOPY_NOT_LISTENING)
    if state.bases_pending:
        state.bases_pending = False
        yield AcknowledgeBases()
    return spec.U64.pack(0)
