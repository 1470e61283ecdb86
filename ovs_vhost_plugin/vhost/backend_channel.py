# SPDX-License-Identifier: Apache-2.0
"""Requests of this back-end to its front-end, matched with their answers.

Sans-IO. vhost-user "Back-end communication": the back-end asks and the front-end answers on a
socket of its own. A message has no number, so answers come in the order of the requests that
asked for one (NEED_REPLY, with REPLY_ACK negotiated).
"""

from collections import deque
from collections.abc import Callable

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.spec import BackendRequest

OnAnswer = Callable[[int], None]
"""Called with the front-end's answer: 0 for success, another number for failure."""

# A front-end that reads and never answers must not fill our memory.
MAX_UNANSWERED = 1024


class Requests:
    """The requests under way on one channel. `acknowledged`: REPLY_ACK was negotiated."""

    def __init__(self, *, acknowledged: bool) -> None:
        self._acknowledged = acknowledged
        self._unanswered: deque[tuple[BackendRequest, OnAnswer]] = deque()

    @property
    def idle(self) -> bool:
        """Whether no answer is awaited."""
        return not self._unanswered

    def ask(
        self, request: BackendRequest, payload: bytes = b"", on_answer: OnAnswer | None = None
    ) -> Message:
        """The message to send now; `on_answer` gets its answer, if it can have one.

        Raises PeerError if the front-end has left too many requests unanswered.
        """
        if on_answer is None or not self._acknowledged:
            return Message(request, payload)
        if len(self._unanswered) >= MAX_UNANSWERED:
            raise PeerError(PeerErrorName.BACKEND_NOT_ANSWERED, f"{MAX_UNANSWERED} requests")
        self._unanswered.append((request, on_answer))
        return Message(request, payload, spec.VERSION | spec.NEED_REPLY)

    def answer(self, message: Message) -> None:
        """Take an answer and close its fds, which are an error. Raises PeerError."""
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
