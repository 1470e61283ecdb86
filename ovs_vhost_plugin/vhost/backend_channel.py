# SPDX-License-Identifier: Apache-2.0
"""Requests the other way: what this back-end asks of its front-end, and which answer is whose.

Sans-IO. vhost-user "Back-end communication": a socket of its own, on which the back-end asks and
the front-end answers. A message has no number, so that answers can only come in the order of the
requests that asked for one (NEED_REPLY, with REPLY_ACK negotiated).
"""

from collections import deque
from collections.abc import Callable

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.spec import BackendRequest

OnAnswer = Callable[[int], None]
"""Is told the front-end's answer: 0, or another number where it could not do it."""

# A front-end that reads and never answers must not fill our memory.
MAX_UNANSWERED = 1024


class Requests:
    """The requests under way on one channel. `acknowledged`: REPLY_ACK was negotiated."""

    def __init__(self, *, acknowledged: bool) -> None:
        self._acknowledged = acknowledged
        self._unanswered: deque[tuple[BackendRequest, OnAnswer]] = deque()

    def ask(
        self, request: BackendRequest, payload: bytes = b"", on_answer: OnAnswer | None = None
    ) -> Message:
        """The message to be sent now; `on_answer` is for its answer, if there can be one.

        Raises PeerError if the front-end has left too many requests without an answer.
        """
        if on_answer is None or not self._acknowledged:
            return Message(request, payload)
        if len(self._unanswered) >= MAX_UNANSWERED:
            raise PeerError(PeerErrorName.BACKEND_NOT_ANSWERED, f"{MAX_UNANSWERED} requests")
        self._unanswered.append((request, on_answer))
        return Message(request, payload, spec.VERSION | spec.NEED_REPLY)

    def answer(self, message: Message) -> None:
        """Take an answer, and its fds, which nobody asked for. Raises PeerError."""
        close_fds(message.fds)
        if message.fds:
            raise PeerError(PeerErrorName.FDS_UNEXPECTED, f"answer to {message.request}")
        if not self._unanswered:
            raise PeerError(PeerErrorName.BACKEND_REPLY_UNEXPECTED, f"to {message.request}")
        request, on_answer = self._unanswered[0]
        if message.request != request:
            detail = f"to {message.request}, {request.name} comes first"
            raise PeerError(PeerErrorName.BACKEND_REPLY_UNEXPECTED, detail)
        if len(message.payload) != spec.U64.size:
            detail = f"answer to {request.name}: {len(message.payload)} bytes"
            raise PeerError(PeerErrorName.PAYLOAD_SIZE, detail)
        self._unanswered.popleft()
        on_answer(spec.U64.unpack(message.payload)[0])
