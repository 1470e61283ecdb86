# SPDX-License-Identifier: Apache-2.0
"""The numbers and layouts of the vhost-user protocol and of virtio-net's features, as data.

Sources: "Vhost-user Protocol" (QEMU, docs/interop/vhost-user.rst), cited below as "vhost-user"
with the section's name; "Virtual I/O Device (VIRTIO) Version 1.2", cited as "virtio" with the
section's number. Every request of the protocol has its name here, even those of no use to a NIC,
so that each can be refused by name.
"""

from enum import IntEnum, IntFlag
from struct import Struct

# vhost-user "Message Specification", "Header": bits 0-1 version, bit 2 reply, bit 3 need_reply.
VERSION = 0x1
VERSION_MASK = 0x3
REPLY = 0x4
NEED_REPLY = 0x8

# vhost-user "Payload": bits 0-7 of SET_VRING_KICK/CALL/ERR are the index, bit 8 says "no fd".
VRING_INDEX_MASK = 0xFF
VRING_NO_FD = 0x100

# vhost-user "Memory regions description": region0 ... region7, one fd each.
MAX_REGIONS = 8
# VHOST_USER_GET_MAX_MEM_SLOTS: front-ends expose no more than 512, three of which they may use
# for memory that they do not share.
MAX_MEM_SLOTS = 509
# No request carries more fds than SET_MEM_TABLE.
MAX_FDS = MAX_REGIONS
# A bound for the buffered bytes of one message. The protocol's largest request (a crypto session
# with its keys) stays below 2 KiB, the largest that this back-end takes (8 regions) is 264 bytes.
MAX_PAYLOAD = 4096

# virtio 2.7 "Split Virtqueues": a power of two, at most 32768; 2.8 "Packed Virtqueues": any number
# up to that.
MAX_VRING_SIZE = 32768
# virtio 2.7 "Split Virtqueues", alignment of the three parts.
DESC_ALIGN = 16
AVAIL_ALIGN = 2
USED_ALIGN = 4


def used_bytes(vring_size: int) -> int:
    """Bytes of a used ring: flags and idx, the entries, avail_event (virtio 2.7.8)."""
    return 6 + 8 * vring_size


# virtio 2.8.10.1: bytes and alignment of each event area of a packed ring.
EVENT_AREA = 4

# vhost-user "Migration": one bit of the dirty log for each page of this size.
LOG_PAGE = 0x1000
# virtio 5.1.4.1 "Driver Requirements: Device configuration layout": MTU between 68 and 65535.
MIN_MTU = 68
MAX_MTU = 65535

# vhost-user "Message Specification": all numbers are in machine byte order; both machines that
# this back-end supports, x86-64 and aarch64, are little-endian.
HEADER = Struct("<III")  # request, flags, size of the payload
U64 = Struct("<Q")
VRING_STATE = Struct("<II")  # index, num
VRING_ADDR = Struct("<IIQQQQ")  # index, flags, descriptor, used, available, log
MEMORY_HEADER = Struct("<II")  # number of regions, padding
MEMORY_REGION = Struct("<QQQQ")  # guest address, size, user address, mmap offset
SINGLE_REGION = Struct("<QQQQQ")  # padding, then as MEMORY_REGION
LOG = Struct("<QQ")  # log size, log offset
INFLIGHT = Struct("<QQHH")  # mmap size, mmap offset, number of queues, queue size
DEVICE_STATE = Struct("<II")  # direction, phase
CONFIG = Struct("<III")  # offset, size, flags; then `size` bytes
# struct vhost_iotlb_msg of <linux/vhost_types.h>: iova, size, user address, permissions, type
IOTLB = Struct("<QQQBB6x")

# INFLIGHT as QEMU and DPDK send it, padded by their compilers.
INFLIGHT_PADDED = 24
# No specification gives the distance between queues; QEMU and DPDK begin each on a cache line.
INFLIGHT_ALIGN = 64

# vhost-user VHOST_USER_SET_DEVICE_STATE_FD: the reply's bits 0-7 are an error, bit 8 says "no fd".
DEVICE_STATE_NO_FD = 0x100

assert HEADER.size == 12
assert VRING_ADDR.size == 40
assert MEMORY_REGION.size == 32
assert IOTLB.size == 32


class FrontendRequest(IntEnum):
    """Requests from the front-end (vhost-user "Front-end message types")."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43
    GET_SHMEM_CONFIG = 44


class VringAddressFlag(IntFlag):
    """Flags of SET_VRING_ADDR (vhost-user "Migration": VHOST_VRING_F_LOG)."""

    LOG = 0x1


class DeviceStatus(IntFlag):
    """Bits of the device status (virtio 2.1 "Device Status Field")."""

    ACKNOWLEDGE = 0x1
    DRIVER = 0x2
    DRIVER_OK = 0x4
    FEATURES_OK = 0x8
    DEVICE_NEEDS_RESET = 0x40
    FAILED = 0x80


class ConfigFlag(IntEnum):
    """The writer of the configuration space (vhost-user "Virtio device config space")."""

    WRITABLE = 0
    MIGRATION = 1


class TransferDirection(IntEnum):
    """The direction of a transfer (vhost-user "Device state transfer parameters")."""

    SAVE = 0
    LOAD = 1


class TransferPhase(IntEnum):
    """The one phase that is specified (vhost-user "Device state transfer parameters")."""

    STOPPED = 0


class IotlbAccess(IntFlag):
    """Permission flags (vhost-user "An IOTLB message")."""

    READ = 1
    WRITE = 2


class IotlbType(IntEnum):
    """The back-end sends MISS and ACCESS_FAIL, the front-end the others ("An IOTLB message")."""

    MISS = 1
    UPDATE = 2
    INVALIDATE = 3
    ACCESS_FAIL = 4


class BackendRequest(IntEnum):
    """Requests from the back-end (vhost-user "Back-end message types")."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8
    SHMEM_MAP = 9
    SHMEM_UNMAP = 10


class ProtocolFeature(IntEnum):
    """Bit numbers of the protocol features (vhost-user "Protocol features")."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO_SESSION = 7
    PAGEFAULT = 8
    CONFIG = 9
    BACKEND_SEND_FD = 10
    HOST_NOTIFIER = 11
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    XEN_MMAP = 17
    SHARED_OBJECT = 18
    DEVICE_STATE = 19
    GET_VRING_BASE_INFLIGHT = 20

    @property
    def mask(self) -> int:
        """The bit as a mask."""
        return 1 << self.value


class Feature(IntEnum):
    """Bit numbers of virtio's, virtio-net's and vhost's features.

    virtio 5.1.3 "Feature bits" (0-23, 56 and up), 6 "Reserved Feature Bits" (24-41); vhost-user
    "Migration" (LOG_ALL) and "Communication" (PROTOCOL_FEATURES) lend two of the legacy bits.
    """

    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    NOTIFY_ON_EMPTY = 24
    LOG_ALL = 26
    ANY_LAYOUT = 27
    RING_INDIRECT_DESC = 28
    RING_EVENT_IDX = 29
    PROTOCOL_FEATURES = 30
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    GUEST_USO4 = 54
    GUEST_USO6 = 55
    HOST_USO = 56
    HASH_REPORT = 57
    GUEST_HDRLEN = 59
    RSS = 60
    STANDBY = 62
    SPEED_DUPLEX = 63

    @property
    def mask(self) -> int:
        """The bit as a mask."""
        return 1 << self.value
