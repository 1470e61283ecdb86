# SPDX-License-Identifier: Apache-2.0
"""OpenFlow 1.0 to 1.5 on the wire: the few messages that a packet-out takes, as pure functions.

Section numbers are of the OpenFlow Switch Specification 1.5.1, where the version is not said.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from ovs_vhost_plugin.common.named import NamedError

HEADER = struct.Struct("!BBHI")  # version, type, length, xid (7.1.1)
_HELLO_ELEMENT = struct.Struct("!HH")  # type, length without padding (7.5.1)
_ERROR = struct.Struct("!HH")  # type, code (7.5.4)
_PACKET_OUT_10 = struct.Struct("!IHH")  # buffer_id, in_port, actions_len (1.0.0, 5.3.6)
_PACKET_OUT_11 = struct.Struct("!IIH6x")  # the same with a wide in_port (1.1.0, A.3.7)
_PACKET_OUT_15 = struct.Struct("!IH2x")  # buffer_id, actions_len; a match follows (7.3.6)
_MATCH_IN_PORT = struct.Struct("!HHII4x")  # OFPMT_OXM, length, OXM header, in_port (7.2.3)
_OUTPUT_10 = struct.Struct("!HHHH")  # type, length, port, max_len
_OUTPUT_11 = struct.Struct("!HHIH6x")  # (7.2.6.1)
assert HEADER.size == _OUTPUT_10.size == _PACKET_OUT_10.size == _PACKET_OUT_15.size == 8
assert _PACKET_OUT_11.size == _MATCH_IN_PORT.size == _OUTPUT_11.size == 16

NO_BUFFER = 0xFFFFFFFF
FIRST_RESERVED_PORT = 0xFF00  # OFPP_MAX of 1.0: OVS numbers no port beyond, in any version
OFPP_CONTROLLER = 0xFFFFFFFD  # as an in_port: made by the controller, come in nowhere (7.2.4)
ETHERNET_HEADER = 14
LONGEST_FRAME = 65000  # a message has at most 65,535 bytes
_OXM_IN_PORT = 0x80000004  # class OPENFLOW_BASIC, field IN_PORT, no mask, 4 bytes (7.2.3.7)
_HELLO_VERSION_BITMAP = 1


class Version(IntEnum):
    """Wire versions."""

    OF10 = 1
    OF11 = 2
    OF12 = 3
    OF13 = 4
    OF14 = 5
    OF15 = 6

    def __str__(self) -> str:
        return f"OpenFlow 1.{self.value - 1}"


ALL_VERSIONS = frozenset(Version)


class MessageType(IntEnum):
    """The types whose numbers no version changed; for the barrier see `barrier_type`."""

    HELLO = 0
    ERROR = 1
    ECHO_REQUEST = 2
    ECHO_REPLY = 3
    PACKET_OUT = 13


class Output(IntEnum):
    """Reserved ports that a packet-out may go to, numbered as in 1.1 and later (7.2.4).

    1.0 has the same numbers in 16 bits.
    """

    TABLE = 0xFFFFFFF9  # through the pipeline, as if the frame had come in on in_port
    NORMAL = 0xFFFFFFFA  # the learning switch, past the pipeline


Addressed = tuple[bytes, int | Output]
"""A frame, and the one port, or NORMAL, that it goes to."""


class OpenFlowErrorName(StrEnum):
    """The faults of a peer, and of a frame that is to be sent."""

    MESSAGE_LENGTH = "message-length"
    MESSAGE_VERSION = "message-version"
    HELLO_EXPECTED = "hello-expected"
    HELLO_ELEMENT = "hello-element"
    HELLO_FAILED = "hello-failed"
    NO_COMMON_VERSION = "no-common-version"
    ERROR_LENGTH = "error-length"
    NOT_NEGOTIATED = "not-negotiated"
    IN_PORT = "in-port"
    OUT_PORT = "out-port"
    FRAME_LENGTH = "frame-length"


class OpenFlowError(NamedError):
    """The conversation cannot go on (or, for the last four names, not with this call)."""


@dataclass(frozen=True, slots=True)
class OpenFlowMessage:
    """One message as read."""

    version: int
    type: int
    xid: int
    body: bytes


class Framer:
    """Cuts a byte stream into messages; holds back at most one message, 65,535 bytes."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[OpenFlowMessage]:
        """Return the messages that `data` completes."""
        buffer = self._pending + data
        messages = []
        start = 0
        while len(buffer) - start >= HEADER.size:
            version, type_, length, xid = HEADER.unpack_from(buffer, start)
            if length < HEADER.size:
                raise OpenFlowError(OpenFlowErrorName.MESSAGE_LENGTH, str(length))
            if len(buffer) - start < length:
                break
            body = buffer[start + HEADER.size : start + length]
            messages.append(OpenFlowMessage(version, type_, xid, body))
            start += length
        self._pending = buffer[start:]
        return messages


def encode(version: int, type_: int, xid: int, body: bytes = b"") -> bytes:
    """Return a whole message."""
    return HEADER.pack(version, type_, HEADER.size + len(body), xid) + body


def hello(versions: Collection[Version], xid: int) -> bytes:
    """Return a HELLO with the bitmap of `versions`: the header alone would imply all below."""
    bitmap = sum(1 << version for version in versions)
    element = _HELLO_ELEMENT.pack(_HELLO_VERSION_BITMAP, 8) + struct.pack("!I", bitmap)
    return encode(max(versions), MessageType.HELLO, xid, element)


def hello_versions(message: OpenFlowMessage) -> frozenset[int]:
    """Return the versions that the sender of a HELLO speaks (7.5.1)."""
    body, at = message.body, 0
    while at + _HELLO_ELEMENT.size <= len(body):
        type_, length = _HELLO_ELEMENT.unpack_from(body, at)
        if length < _HELLO_ELEMENT.size or at + length > len(body):
            raise OpenFlowError(OpenFlowErrorName.HELLO_ELEMENT, f"length {length}")
        if type_ == _HELLO_VERSION_BITMAP:
            # versions 32 and above would be in further words: there are none
            first = int.from_bytes(body[at + 4 : at + length][:4], "big")
            return frozenset(version for version in range(32) if first >> version & 1)
        at += (length + 7) & ~7
    # without a bitmap the header's version is the highest, and all below are implied
    return frozenset(range(1, message.version + 1))


def barrier_type(version: int) -> int:
    """Return the type of a BARRIER_REQUEST; the reply's is one more."""
    return 18 if version == Version.OF10 else 20


def packet_out(version: Version, xid: int, in_port: int, output: Output, frame: bytes) -> bytes:
    """Return a PACKET_OUT of `frame`, to be treated as if it had come in on `in_port`.

    Raises OpenFlowError for what OVS would drop without any error of its own (measured with 3.1):
    an in_port that is no port, a frame without a whole Ethernet header.
    """
    if not 1 <= in_port < FIRST_RESERVED_PORT:
        raise OpenFlowError(OpenFlowErrorName.IN_PORT, str(in_port))
    return _packet_out(version, xid, in_port, output, frame)


def packet_to(version: Version, xid: int, port: int | Output, frame: bytes) -> bytes:
    """Return a PACKET_OUT of `frame` to exactly `port`, or as a learning switch sends it (NORMAL).

    Its in_port is OFPP_CONTROLLER: from a frame that came in on no port, OVS learns nothing.
    Raises OpenFlowError as `packet_out` does.
    """
    if port is not Output.NORMAL and not 1 <= port < FIRST_RESERVED_PORT:
        raise OpenFlowError(OpenFlowErrorName.OUT_PORT, str(port))
    return _packet_out(version, xid, OFPP_CONTROLLER, port, frame)


def _packet_out(version: Version, xid: int, in_port: int, output: int, frame: bytes) -> bytes:
    if not ETHERNET_HEADER <= len(frame) <= LONGEST_FRAME:
        raise OpenFlowError(OpenFlowErrorName.FRAME_LENGTH, str(len(frame)))
    if version == Version.OF10:
        actions = _OUTPUT_10.pack(0, _OUTPUT_10.size, output & 0xFFFF, 0)
        head = _PACKET_OUT_10.pack(NO_BUFFER, in_port & 0xFFFF, len(actions))
    else:
        actions = _OUTPUT_11.pack(0, _OUTPUT_11.size, output, 0)
        if version < Version.OF15:
            head = _PACKET_OUT_11.pack(NO_BUFFER, in_port, len(actions))
        else:
            head = _PACKET_OUT_15.pack(NO_BUFFER, len(actions))
            head += _MATCH_IN_PORT.pack(1, 12, _OXM_IN_PORT, in_port)
    return encode(version, MessageType.PACKET_OUT, xid, head + actions + frame)


# The types that a packet-out, a barrier or a HELLO can meet; numbers as in every version (7.5.4).
_ERROR_NAMES: dict[int, tuple[str, dict[int, str]]] = {
    0: ("HELLO_FAILED", {0: "INCOMPATIBLE", 1: "EPERM"}),
    1: (
        "BAD_REQUEST",
        {
            0: "BAD_VERSION",
            1: "BAD_TYPE",
            5: "EPERM",
            6: "BAD_LEN",
            7: "BUFFER_EMPTY",
            8: "BUFFER_UNKNOWN",
            10: "IS_SLAVE",
            11: "BAD_PORT",
            12: "BAD_PACKET",
        },
    ),
    2: (
        "BAD_ACTION",
        {0: "BAD_TYPE", 1: "BAD_LEN", 4: "BAD_OUT_PORT", 5: "BAD_ARGUMENT", 6: "EPERM"},
    ),
}


def error_fields(message: OpenFlowMessage) -> tuple[int, int, bytes]:
    """Return the type, code and data of an ERROR."""
    if len(message.body) < _ERROR.size:
        raise OpenFlowError(OpenFlowErrorName.ERROR_LENGTH, str(len(message.body)))
    type_, code = _ERROR.unpack_from(message.body)
    return type_, code, message.body[_ERROR.size :]


def error_name(type_: int, code: int) -> str:
    """Return "BAD_REQUEST/BAD_PORT", or the numbers in place of what has no name here."""
    family, codes = _ERROR_NAMES.get(type_, (f"type {type_}", {}))
    return f"{family}/{codes.get(code, f'code {code}')}"
