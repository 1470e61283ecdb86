# SPDX-License-Identifier: Apache-2.0
"""The protocol between the daemon and a worker: JSON objects, fds beside those to the worker.

A worker listens on a SOCK_SEQPACKET unix socket and serves one daemon at a time, so that it
outlives the daemon and the next daemon adopts it. Over that socket the daemon only sends. A
worker's reports come by a pipe that the daemon gives it with its first command (`reportpipe.py`).
A worker faces a guest and may have been taken over by it: the daemon believes no report before it
is checked (in `daemon/workers/`, `reports.py` checks contents and `report_rates.py` rates).

daemon → worker, key "op":
    hello {version} + 3 fds: report pipe, file and alarm for its vitals (`ipc/vitals.py`) |
    configure {mtu, finish_offloads, finish_udp, hold, state, config, mac, link_up, postcopy,
    any_memory, features_off, protocol_features_off} | stats {id} | connected + 1 fd |
    inject {frames: [hex]} |
    release {id, stations} | userfaultfd + 1 fd | userfaultfd {error} |
    quit
`version` is the release each side runs, for people to read.
worker → daemon, key "event":
    hello {version, spec} | state {state} | rarp {mac, at} |
    started {base, sent, moved_in, further} | connect | stats {id, stats} |
    addresses {addresses: [{mac, vlan, router, ipv4, ipv6}]} |
    holding {hold, active, stations, counts} | held {id, frames: [base64], left} | userfaultfd
`stats` is plain JSON, in which "queue_pairs" is {names, values}: a row of counts for
each pair up to the last one that has run.
"""

import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ovs_vhost_plugin.vhost.fds import closing

_INT_SIZE = array("i").itemsize

MAX_PACKET = 128 * 1024
"""Most bytes of one packet: the statistics of 128 queue pairs fit, a socket buffer holds it."""

HELD_BATCH_FRAMES, HELD_BATCH_BYTES = 256, 48 * 1024
"""Most frames, and most bytes of them, that one "held" hands over; a single frame may be longer.
In base64, with its JSON, either fits in a packet."""

JOURNAL_BYTES = 16 * 1024
"""Of a port's journal file for each vring (`worker/recovery/journal.py`)."""

WORKER_UIDS = range(0x70000000, 0x7FFFFFFF)
"""User ids of workers, of which each has one of its own; used by nobody else (systemd's UIDS-GIDS).
"""

MAX_BACKLOG = 64
"""Most packets kept for a peer that does not read; beyond it the channel is closed."""

MAX_BATCH = 64
"""Most packets that one `Channel.receive` returns, so that no peer holds up the reader's loop."""


class ChannelClosed(Exception):  # noqa: N818 - an event of every connection, not an error
    """The peer has gone, or what follows from it cannot be used; the text says which."""


class ChannelBroken(ChannelClosed):
    """The peer broke the framing, or does not read: it is not to be trusted with more."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that a worker is told at its start; mode, path, queues, uid and gid never change.

    name            the port's and the tap's name
    mode            "client": the front-end listens on `path`; "server": the worker does
    queues          most queue pairs offered
    mtu             offered to the guest (bytes), None: not offered
    finish_offloads the bridge takes no partial checksums and no GSO frames: finish them here
    finish_udp      it takes no large frames of UDP: finish those here, whatever else it takes
    hold            keep frames for a guest that migrates away, for the daemon to forward
    state           offer the front-end to move the device's state; from the next connection on
    config          offer the NIC's configuration space; from the next connection on
    mac             what it says of the MAC, in hexadecimal digits; "": not known
    link_up         what it says of the link
    postcopy        offer PAGEFAULT: a userfaultfd, which reaches all of the worker's memory
    any_memory      take guest memory from files of any kind, and not from memory alone
    features_off, protocol_features_off  masks of what is not offered; from the next connection on
    uid, gid        what the worker changes to before it reads from a peer; 0: no change
    """

    name: str
    mode: str
    path: str
    queues: int
    mtu: int | None
    finish_offloads: bool
    hold: bool
    uid: int = 0
    gid: int = 0
    finish_udp: bool = True
    state: bool = False
    config: bool = False
    mac: str = ""
    link_up: bool = True
    postcopy: bool = False
    any_memory: bool = False
    features_off: int = 0
    protocol_features_off: int = 0

    def to_json(self) -> dict[str, Any]:
        """The spec as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> "WorkerSpec":
        """Check and convert what `to_json` made; ValueError names the field that is wrong."""
        if not isinstance(value, dict) or value.keys() != cls.__annotations__.keys():
            raise ValueError("worker spec: wrong set of fields")
        for field, kind in cls.__annotations__.items():
            # bool is an int to isinstance, but never a queue count
            if not isinstance(value[field], kind) or (
                kind is not bool and isinstance(value[field], bool)
            ):
                raise ValueError(f"worker spec: {field} is {value[field]!r:.40}")
        return cls(**value)


def threads_of(queues: int) -> int:
    """Most threads of a worker with so many queue pairs: one each, those that close, a few."""
    return queues + closing.AT_ONCE + 8


@dataclass(frozen=True, slots=True)
class Inheritance:
    """The fds that a worker is born with, besides its std files.

    control   where the daemon connects
    listener  where the front-end does, in server mode
    taps      one open queue of the port's tap for each queue pair
    journal   the file of the rings' journals, which nobody else writes
    """

    control: int
    listener: int | None
    taps: tuple[int, ...]
    journal: int


class Channel:
    """One end of a control connection. Never blocks; bounded in both directions."""

    def __init__(self, sock: socket.socket, max_fds: int = 1) -> None:
        """Take over `sock` (SOCK_SEQPACKET). A packet with more than `max_fds` fds is refused."""
        sock.setblocking(False)
        self._sock = sock
        self._max_fds = max_fds
        self._backlog: deque[tuple[bytes, list[int]]] = deque()
        self._end: ChannelClosed | None = None

    def fileno(self) -> int:
        """The socket, for a poll loop; -1 when closed."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Packets wait for a peer that does not read: poll for writing, then `flush`."""
        return bool(self._backlog)

    def send(self, obj: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one object. The fds stay the caller's. ChannelClosed when the peer is gone."""
        packet = _encode(obj)
        if len(self._backlog) >= MAX_BACKLOG:
            raise ChannelBroken("it does not read")
        # Kept fds must outlive the caller's, so they are duplicates.
        self._backlog.append((packet, [os.dup(fd) for fd in fds]))
        self.flush()

    def send_now(self, obj: dict[str, Any], fds: Sequence[int]) -> bool:
        """Send one object with fds, or not at all: no copy of them is kept. ChannelClosed as send.

        Whoever closes the last copy of a peer's fd may have to wait for that peer.
        """
        self.flush()
        if self._backlog:
            return False
        try:
            socket.send_fds(self._sock, [_encode(obj)], fds)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelClosed(f"sending failed: {error.strerror}") from error
        return True

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._backlog:
            packet, fds = self._backlog[0]
            try:
                socket.send_fds(self._sock, [packet], fds)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelClosed(f"sending failed: {error.strerror}") from error
            _close_all(fds)
            self._backlog.popleft()

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Take the packets that are there. The fds become the caller's.

        Packets before an end or an error are returned first; the next call raises.
        """
        received: list[tuple[dict[str, Any], list[int]]] = []
        while self._end is None and len(received) < MAX_BATCH:
            try:
                received.append(self._receive_one())
            except BlockingIOError:
                return received
            except ChannelClosed as end:
                self._end = end  # for good: what follows a broken packet means nothing
        if self._end is not None and not received:
            raise self._end
        return received

    def _receive_one(self) -> tuple[dict[str, Any], list[int]]:
        try:
            # Not socket.recv_fds: Python 3.11's ignores its flags.
            packet, ancillary, flags, _ = self._sock.recvmsg(
                MAX_PACKET, socket.CMSG_LEN(self._max_fds * _INT_SIZE), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelClosed(f"receiving failed: {error.strerror}") from error
        fds = array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) // _INT_SIZE * _INT_SIZE])
        try:
            return _decode(packet, flags), list(fds)
        except ChannelClosed:
            _close_all(fds)
            raise

    def close(self) -> None:
        """Close the socket and all kept fds."""
        while self._backlog:
            _close_all(self._backlog.popleft()[1])
        self._sock.close()


def _encode(obj: dict[str, Any]) -> bytes:
    packet = json.dumps(obj, separators=(",", ":")).encode()
    if len(packet) > MAX_PACKET:
        raise ValueError(f"control packet of {len(packet)} bytes")
    return packet


def _decode(packet: bytes, flags: int) -> dict[str, Any]:
    if not packet:
        raise ChannelClosed("closed by the peer")
    if flags & socket.MSG_TRUNC:
        raise ChannelBroken(f"packet of more than {MAX_PACKET} bytes")
    if flags & socket.MSG_CTRUNC:
        raise ChannelBroken("more fds than this end takes")
    return decode_object(packet, "packet")


def decode_object(text: bytes, what: str) -> dict[str, Any]:
    """The JSON object that `text` is, `what` a peer has sent. Raises ChannelBroken."""
    try:
        obj = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChannelBroken(f"{what} is no JSON") from error
    if not isinstance(obj, dict):
        raise ChannelBroken(f"{what} is no JSON object")
    return obj


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
