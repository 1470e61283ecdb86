# SPDX-License-Identifier: Apache-2.0
"""What a session asks of the device: the whole interface from protocol to data path.

A handler yields effects in the order in which they have to happen; the device executes one,
sends back its result, and so the session never holds a socket, a mapping or a ring.
"""

from collections.abc import Generator
from dataclasses import dataclass

from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.spec import IotlbAccess


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A region of SET_MEM_TABLE, in bytes (vhost-user "Memory regions description")."""

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """`features` were acknowledged and are in the session; rings may be running (LOG_ALL)."""

    features: int


@dataclass(frozen=True, slots=True)
class SetMemoryTable:
    """A new memory table, whose fds the device now owns; rings may be running."""

    regions: tuple[MemoryRegion, ...]
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AddMemoryRegion:
    """One more region, whose fd the device now owns; rings may be running."""

    region: MemoryRegion
    fd: int


@dataclass(frozen=True, slots=True)
class RemoveMemoryRegion:
    """A region goes; its `mmap_offset` says nothing. Rings may be running."""

    region: MemoryRegion


@dataclass(frozen=True, slots=True)
class SetLog:
    """A new dirty log of `size` bytes at `offset` of `fd`, which the device now owns."""

    size: int
    offset: int
    fd: int


@dataclass(frozen=True, slots=True)
class InflightDescription:
    """Where in a file what is in flight is kept, and for how many queues of which size."""

    size: int
    offset: int
    queues: int
    queue_size: int


@dataclass(frozen=True, slots=True)
class MakeInflight:
    """Make such a file, and answer its fd, which stays the device's, and its bytes."""

    queues: int
    queue_size: int
    packed: bool


@dataclass(frozen=True, slots=True)
class SetInflight:
    """Keep there what is in flight; no ring is started. The device now owns `fd`."""

    description: InflightDescription
    fd: int


@dataclass(frozen=True, slots=True)
class ReconfigureVring:
    """The session's vring `index` changed: run it as it is now, if it is ready.

    Its former fds stay open until the device has executed this.
    """

    index: int


@dataclass(frozen=True, slots=True)
class StopVring:
    """Stop vring `index` for GET_VRING_BASE.

    Answered with the next avail index; from then on nothing is written for this vring.
    """

    index: int


@dataclass(frozen=True, slots=True)
class KickVring:
    """The front-end kicks vring `index` by a message: signal its kick fd, which is our own."""

    index: int


@dataclass(frozen=True, slots=True)
class SendRarp:
    """Announce `mac` (6 bytes, a unicast address) in the network."""

    mac: bytes


@dataclass(frozen=True, slots=True)
class SetMtu:
    """The MTU the front-end exposes to the guest, within what the port carries."""

    mtu: int


@dataclass(frozen=True, slots=True)
class SaveState:
    """Write the device's state into the pipe `fd`, which the device now owns."""

    fd: int


@dataclass(frozen=True, slots=True)
class LoadState:
    """Read the device's state from the pipe `fd`, which the device now owns."""

    fd: int


@dataclass(frozen=True, slots=True)
class CheckState:
    """Judge the transfer that was begun last, and use what it brought."""


@dataclass(frozen=True, slots=True)
class OpenBackendChannel:
    """The socket `fd`, which the device now owns, is for the back-end's own requests.

    acknowledged: they may ask for an acknowledgement (REPLY_ACK).
    """

    fd: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The configuration space is another now, and not because the front-end wrote it."""


@dataclass(frozen=True, slots=True)
class AdvisePostcopy:
    """Make a userfaultfd, and answer its fd, which stays the device's; the last one counts."""


@dataclass(frozen=True, slots=True)
class ListenPostcopy:
    """Memory that is set from now on lacks pages, which come when they are touched.

    There must be none yet. SetMemoryTable and AddMemoryRegion are answered with the addresses at
    which their regions are mapped; no ring may run while the session's `bases_pending` is set.
    """


@dataclass(frozen=True, slots=True)
class AcknowledgeBases:
    """The front-end knows those addresses: memory may be touched, and rings run."""


@dataclass(frozen=True, slots=True)
class EndPostcopy:
    """All pages have come: end what AdvisePostcopy began."""


@dataclass(frozen=True, slots=True)
class UpdateIotlb:
    """The `size` bytes at `iova` are at `user_address` of the front-end; rings may wait for it."""

    iova: int
    size: int
    user_address: int
    access: IotlbAccess


@dataclass(frozen=True, slots=True)
class InvalidateIotlb:
    """The `size` bytes at `iova` are nowhere; executed when no ring uses them any more."""

    iova: int
    size: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused and nothing changed; the connection goes on. To be counted."""

    error: PeerError


Effect = (
    SetFeatures
    | SetMemoryTable
    | AddMemoryRegion
    | RemoveMemoryRegion
    | SetLog
    | MakeInflight
    | SetInflight
    | ReconfigureVring
    | StopVring
    | KickVring
    | SendRarp
    | SetMtu
    | SaveState
    | LoadState
    | CheckState
    | OpenBackendChannel
    | ConfigChanged
    | AdvisePostcopy
    | ListenPostcopy
    | AcknowledgeBases
    | EndPostcopy
    | UpdateIotlb
    | InvalidateIotlb
    | Refused
)

Handling = Generator[Effect, object, bytes | None]
"""A request's handler at work: effects out, the device's answers in; the reply's payload."""
