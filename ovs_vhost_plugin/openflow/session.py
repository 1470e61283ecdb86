# SPDX-License-Identifier: Apache-2.0
"""An OpenFlow client's conversation with a bridge, sans-IO: bytes in, events and bytes out."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.openflow import wire
from ovs_vhost_plugin.openflow.wire import (
    ALL_VERSIONS,
    MessageType,
    OpenFlowError,
    OpenFlowErrorName,
    OpenFlowMessage,
    Output,
    Version,
)


@dataclass(frozen=True, slots=True)
class Negotiated:
    """Both sides have said HELLO; requests may follow."""

    version: Version


@dataclass(frozen=True, slots=True)
class Barrier:
    """The switch has carried out all that was sent before the barrier request `xid`."""

    xid: int


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The switch refused the request `xid`."""

    xid: int
    type: int
    code: int
    name: str


SessionEvent = Negotiated | Barrier | ErrorReply


class OpenFlowSession:
    """One connection's state: hello sent, then negotiated.

    `feed` raises OpenFlowError when the peer breaks the protocol: the connection is then of no use.
    """

    def __init__(self, versions: frozenset[Version] = ALL_VERSIONS) -> None:
        self.version: Version | None = None
        self._versions = versions
        self._framer = wire.Framer()
        self._xid = 0
        self._output = bytearray(wire.hello(versions, self._next_xid()))

    def data_to_send(self) -> bytes:
        """Take the bytes that are to go to the peer."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def packet_out(self, in_port: int, frame: bytes, output: Output = Output.TABLE) -> int:
        """Queue a packet-out, return its xid. Raises OpenFlowError for what OVS would not take."""
        version = self._negotiated()
        xid = self._next_xid()
        self._output += wire.packet_out(version, xid, in_port, output, frame)
        return xid

    def packet_to(self, port: int | Output, frame: bytes) -> int:
        """Queue a packet-out to exactly `port`, see `wire.packet_to`; return its xid."""
        version = self._negotiated()
        xid = self._next_xid()
        self._output += wire.packet_to(version, xid, port, frame)
        return xid

    def barrier(self) -> int:
        """Queue a barrier request, return its xid."""
        version = self._negotiated()
        xid = self._next_xid()
        self._output += wire.encode(version, wire.barrier_type(version), xid)
        return xid

    def feed(self, data: bytes) -> list[SessionEvent]:
        """Take bytes from the peer, return the events in them."""
        events = (self._receive(message) for message in self._framer.feed(data))
        return [event for event in events if event is not None]

    def _receive(self, message: OpenFlowMessage) -> SessionEvent | None:
        if message.type == MessageType.ERROR:
            return self._receive_error(message)
        if self.version is None:
            return self._negotiate(message)
        if message.version != self.version:
            raise OpenFlowError(OpenFlowErrorName.MESSAGE_VERSION, str(message.version))
        if message.type == MessageType.ECHO_REQUEST:
            self._output += wire.encode(
                self.version, MessageType.ECHO_REPLY, message.xid, message.body
            )
        elif message.type == wire.barrier_type(self.version) + 1:
            return Barrier(message.xid)
        return None  # nothing else was asked for; asynchronous messages do not concern us

    def _negotiate(self, message: OpenFlowMessage) -> Negotiated:
        if message.type != MessageType.HELLO:
            raise OpenFlowError(OpenFlowErrorName.HELLO_EXPECTED, f"type {message.type}")
        theirs = wire.hello_versions(message)
        common = [version for version in self._versions if version in theirs]
        if not common:
            offered = ", ".join(str(version) for version in sorted(theirs))
            raise OpenFlowError(OpenFlowErrorName.NO_COMMON_VERSION, f"wire versions {offered}")
        self.version = max(common)
        return Negotiated(self.version)

    def _receive_error(self, message: OpenFlowMessage) -> ErrorReply:
        type_, code, data = wire.error_fields(message)
        name = wire.error_name(type_, code)
        if self.version is None:
            # the data of a failed HELLO is a text for people
            text = data[:200].decode("ascii", "replace").rstrip("\0")
            said = f"{name} {escaped(text)}".rstrip()
            raise OpenFlowError(OpenFlowErrorName.HELLO_FAILED, said)
        return ErrorReply(message.xid, type_, code, name)

    def _negotiated(self) -> Version:
        if self.version is None:
            raise OpenFlowError(OpenFlowErrorName.NOT_NEGOTIATED)
        return self.version

    def _next_xid(self) -> int:
        self._xid = self._xid % 0xFFFFFFFF + 1  # 32 bits, never 0
        return self._xid
