# SPDX-License-Identifier: Apache-2.0
"""The faults of a guest in its rings and frames, each with a name.

A fault in the ring's structure ends the ring: nothing that follows can be trusted. A fault in one
frame costs that frame. Both are counted under their names. Operators read these, so a name never
changes its meaning. Kernels return a fault as `result.py` says.
"""

from enum import IntEnum


class Fault(IntEnum):
    """Faults below `FIRST_OF_FRAMES` end the ring, the others drop one frame."""

    # Available ring (virtio 1.2, 2.7.6, 2.7.13)
    AVAIL_JUMPS = 1  # idx is further ahead than the ring has entries
    AVAIL_GOES_BACK = 2
    HEAD_OUT_OF_RANGE = 3

    # Descriptor ring of a packed ring (2.8.1, 2.8.6, 2.8.13)
    WRAP_COUNTER_WRONG = 4  # flags of a used descriptor, which the device has not used
    ID_OUT_OF_RANGE = 5
    NEXT_NOT_AVAILABLE = 6  # a chain runs into descriptors that the driver has not made available
    BASE_STALE = 7  # the ring has gone on since its front-end learned the base

    # Descriptor chain (2.7.4, 2.7.5)
    NEXT_OUT_OF_RANGE = 8
    CHAIN_LOOPS = 9  # more descriptors than the table has entries
    CHAIN_TOO_LONG = 10  # more iovecs than one readv or writev takes
    WRONG_DIRECTION = (
        11  # device-writable in the transmit ring, device-readable in the receive ring
    )
    READABLE_AFTER_WRITABLE = 12
    ZERO_LENGTH = 13
    ADDRESS_WRAPS = 14
    ADDRESS_OUTSIDE_MEMORY = 15

    # The front-end's inflight region (vhost-user "Inflight I/O tracking")
    INFLIGHT_VERSION = 16  # another layout, or of queues of another size
    INFLIGHT_OUT_OF_RANGE = 17
    INFLIGHT_LOOPS = 18  # a list of entries has a loop
    INFLIGHT_STALE = 19  # of a ring at another place, or with fewer offered chains

    # Indirect table (2.7.5.3)
    INDIRECT_NOT_NEGOTIATED = 20
    INDIRECT_NESTED = 21
    INDIRECT_WITH_NEXT = 22  # in a packed ring (2.8.7) also behind other descriptors
    INDIRECT_EMPTY = 23
    INDIRECT_LENGTH = 24  # no multiple of a descriptor's 16 bytes
    INDIRECT_TOO_LARGE = 25
    INDIRECT_OUTSIDE_MEMORY = 26

    # The ring's fds and memory
    KICK_NOT_EVENTFD = 32
    CALL_NOT_EVENTFD = 33
    KICK_FAILED = 34
    MEMORY_GONE = 35  # the owner has cut the memory's file short

    # Frames of the transmit ring and their virtio-net header (5.1.6.2)
    CHAIN_WITHOUT_FRAME = 40  # not longer than the header
    FRAME_TOO_SHORT = 41  # than an Ethernet header
    FRAME_TOO_LONG = 42
    CSUM_NOT_NEGOTIATED = 43
    CSUM_OUTSIDE_FRAME = 44
    GSO_NOT_NEGOTIATED = 45
    GSO_UNKNOWN = 46
    GSO_WITHOUT_CSUM = 47
    GSO_SIZE = 48
    HEADER_LENGTH_BEYOND_FRAME = 49
    GSO_HEADERS = 50  # the frame is not what gso_type says, so it cannot be segmented

    # Dirty log: the write happened, the page has no bit
    LOG_TOO_SMALL = 60

    @property
    def breaks_ring(self) -> bool:
        """Whether the fault ends the ring."""
        return self < FIRST_OF_FRAMES

    @property
    def kebab(self) -> str:
        """The name that users see: "avail-jumps"."""
        return self.name.lower().replace("_", "-")


FIRST_OF_FRAMES = 40
FAULTS = 64  # length of an array indexed by fault
