# SPDX-License-Identifier: Apache-2.0
"""Messages to bytes and back: the header is checked once, here, and fds always have an owner.

vhost-user "Message Specification": a header of 12 bytes (request, flags, size), then the payload;
fds travel beside the bytes. The decoder keeps the part of a message that has come and waits for
the rest, however the peer cuts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds

_KNOWN_FLAGS = spec.VERSION_MASK | spec.REPLY | spec.NEED_REPLY


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply. The holder of the message owns its fds."""

    request: int
    payload: bytes = b""
    flags: int = spec.VERSION
    fds: tuple[int, ...] = ()

    @property
    def need_reply(self) -> bool:
        """Whether the sender asks for an acknowledgement (vhost-user "REPLY_ACK")."""
        return bool(self.flags & spec.NEED_REPLY)


def encode(message: Message) -> bytes:
    """Header and payload as bytes; the fds go beside them."""
    return spec.HEADER.pack(message.request, message.flags, len(message.payload)) + message.payload


class Decoder:
    """Bytes and fds in, messages out; sans-IO.

    Feed at most `wanted` bytes at a time: fds belong to the message whose bytes they came with,
    and so few bytes are all of one message. The decoder owns fds that it has not handed out with
    a message, until `close()`.

    `replies` is True at the front-end's end, where every message must carry the reply flag.
    """

    def __init__(self, *, replies: bool = False) -> None:
        self._replies = replies
        self._buffer = bytearray()
        self._fds: list[int] = []

    @property
    def wanted(self) -> int:
        """Bytes still missing of the header, or, once it is complete, of the payload."""
        if len(self._buffer) < spec.HEADER.size:
            return spec.HEADER.size - len(self._buffer)
        size: int = spec.HEADER.unpack_from(self._buffer)[2]
        return max(0, spec.HEADER.size + size - len(self._buffer))

    @property
    def empty(self) -> bool:
        """Whether no part of a message has come."""
        return not self._buffer and not self._fds

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Take bytes and the fds that came with them."""
        self._buffer += data
        self._fds += fds

    def next(self) -> Message | None:
        """The next whole message, or None while parts of it are missing.

        Raises PeerError on a wrong header. The start of the next message is then unknown, so the
        error repeats and the connection is of no more use.
        """
        if len(self._fds) > spec.MAX_FDS:
            raise PeerError(PeerErrorName.FDS_TOO_MANY, f"{len(self._fds)} with one message")
        if len(self._buffer) < spec.HEADER.size:
            return None
        request, flags, size = spec.HEADER.unpack_from(self._buffer)
        self._check_header(request, flags, size)
        end = spec.HEADER.size + size
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[spec.HEADER.size : end])
        fds = tuple(self._fds)
        del self._buffer[:end]
        self._fds.clear()
        return Message(request, payload, flags, fds)

    def _check_header(self, request: int, flags: int, size: int) -> None:
        seen = f"request {request}, flags {flags:#x}, size {size}"
        if flags & spec.VERSION_MASK != spec.VERSION:
            raise PeerError(PeerErrorName.HEADER_VERSION, seen)
        if flags & ~_KNOWN_FLAGS:
            raise PeerError(PeerErrorName.HEADER_RESERVED_FLAGS, seen)
        if flags & spec.REPLY and not self._replies:
            raise PeerError(PeerErrorName.HEADER_UNEXPECTED_REPLY, seen)
        if self._replies and not flags & spec.REPLY:
            raise PeerError(PeerErrorName.HEADER_MISSING_REPLY, seen)
        if size > spec.MAX_PAYLOAD:
            raise PeerError(PeerErrorName.PAYLOAD_TOO_LARGE, seen)

    def close(self) -> None:
        """Close the fds that were not handed out with a message."""
        fds, self._fds = self._fds, []
        self._buffer.clear()
        close_fds(fds)
