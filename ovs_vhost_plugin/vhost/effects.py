# SPDX-License-Identifier: Apache-2.0
"""Effects: all that a session can ask of the device, the interface from protocol to data path.

A handler yields effects in the order in which they have to happen. The device executes each and
sends back its result, so the session never holds a socket, a mapping or a ring.
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
    """The session has taken the acknowledged `features`; rings may be running (LOG_ALL)."""

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
    """Remove a region; its `mmap_offset` has no meaning. Rings may be running."""

    region: MemoryRegion


@dataclass(frozen=True, slots=True)
class SetLog:
    """A new dirty log of `size` bytes at `offset` of `fd`, which the device now owns."""

    size: int
    offset: int
    fd: int


@dataclass(frozen=True, slots=True)
class InflightDescription:
    """The part of a file that is the in-flight region: bytes, and the queues it has room for."""

    size: int
    offset: int
    queues: int
    queue_size: int


@dataclass(frozen=True, slots=True)
class MakeInflight:
    """Make a file for an in-flight region. Answered with its fd, owned by the device, and size."""

    queues: int
    queue_size: int
    packed: bool


@dataclass(frozen=True, slots=True)
class SetInflight:
    """Track in-flight chains in this region; no ring is started. The device now owns `fd`."""

    description: InflightDescription
    fd: int


@dataclass(frozen=True, slots=True)
class ReconfigureVring:
    """The session's vring `index` changed: run it with its new settings, if it is ready.

    Its former fds stay open until the device has executed this.
    """

    index: int


@dataclass(frozen=True, slots=True)
class StopVring:
    """Stop vring `index` for GET_VRING_BASE.

    Answered with the next avail index. After the answer nothing is written for this vring.
    """

    index: int


@dataclass(frozen=True, slots=True)
class KickVring:
    """The front-end kicks vring `index` by a message: signal its kick fd, which this side made."""

    index: int


@dataclass(frozen=True, slots=True)
class SendRarp:
    """Announce `mac` (6 bytes, a unicast address) in the network."""

    mac: bytes


@dataclass(frozen=True, slots=True)
class SetMtu:
    """The MTU that the front-end exposes to the guest, no larger than the port's."""

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
    """Check the last state transfer, and use the state if it was a load."""


@dataclass(frozen=True, slots=True)
class OpenBackendChannel:
    """The socket `fd`, which the device now owns, is for the back-end's own requests.

    acknowledged: those requests may ask for an acknowledgement (REPLY_ACK).
    """

    fd: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The configuration space has changed, and not because the front-end wrote it."""


@dataclass(frozen=True, slots=True)
class AdvisePostcopy:
    """Make a userfaultfd. Answered with its fd, which the device owns; the last one counts."""


@dataclass(frozen=True, slots=True)
class ListenPostcopy:
    """Memory that is set from now on lacks pages; they come when they are touched.

    No memory may be set yet. SetMemoryTable and AddMemoryRegion are answered with the addresses at
    which their regions are mapped. No ring may run while the session's `bases_pending` is set.
    """


@dataclass(frozen=True, slots=True)
class AcknowledgeBases:
    """The front-end knows the addresses of all regions: memory may be touched, rings may run."""


@dataclass(frozen=True, slots=True)
class EndPostcopy:
    """All pages have come: end the postcopy that AdvisePostcopy began."""


@dataclass(frozen=True, slots=True)
class UpdateIotlb:
    """The `size` bytes at `iova` are at the front-end's `user_address`; rings may wait for them."""

    iova: int
    size: int
    user_address: int
    access: IotlbAccess


@dataclass(frozen=True, slots=True)
class InvalidateIotlb:
    """The `size` bytes at `iova` have no translation now; executed when no ring uses them."""

    iova: int
    size: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Count this: a request was refused and nothing changed; the connection goes on."""

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
"""A running handler: yields effects, is sent the device's answers, returns the reply's payload."""
