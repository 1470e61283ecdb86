# SPDX-License-Identifier: Apache-2.0
"""One name for each thing a front-end can do wrong.

An operator sees these names in the log, in external_ids:vhost-user-error and in the counters, so
a name never changes its meaning. The value that was seen goes into the detail.
"""

from enum import StrEnum


class PeerErrorName(StrEnum):
    """Wrong inputs of a front-end, grouped by part of the protocol."""

    # Header (vhost-user "Header")
    HEADER_VERSION = "header-version"
    HEADER_RESERVED_FLAGS = "header-reserved-flags"
    HEADER_UNEXPECTED_REPLY = "header-unexpected-reply"
    HEADER_MISSING_REPLY = "header-missing-reply"
    PAYLOAD_TOO_LARGE = "payload-too-large"
    PAYLOAD_SIZE = "payload-size"

    # Requests (vhost-user "Front-end message types")
    REQUEST_UNKNOWN = "request-unknown"
    REQUEST_NOT_OFFERED = "request-not-offered"
    REQUEST_NOT_FOR_NET = "request-not-for-net"
    PROTOCOL_FEATURE_MISSING = "protocol-feature-missing"

    # File descriptors beside a message
    FDS_TOO_MANY = "fds-too-many"
    FDS_TRUNCATED = "fds-truncated"
    FDS_MISSING = "fds-missing"
    FDS_UNEXPECTED = "fds-unexpected"

    # The connection
    REPLIES_NOT_READ = "replies-not-read"
    SECOND_FRONT_END = "second-front-end"
    FRONT_END_GIVES_UP = "front-end-gives-up"

    # The back-end channel (vhost-user "Back-end communication")
    BACKEND_FD_NOT_SOCKET = "backend-fd-not-socket"
    BACKEND_NOT_READ = "backend-not-read"
    BACKEND_NOT_ANSWERED = "backend-not-answered"
    BACKEND_REPLY_UNEXPECTED = "backend-reply-unexpected"

    # Features
    FEATURES_NOT_OFFERED = "features-not-offered"
    FEATURES_WHILE_STARTED = "features-while-started"
    STATUS_VALUE = "status-value"
    PROTOCOL_FEATURES_NOT_OFFERED = "protocol-features-not-offered"
    INBAND_WITHOUT_CHANNEL = "inband-without-channel"

    # Memory table
    REGIONS_NONE = "regions-none"
    REGIONS_TOO_MANY = "regions-too-many"
    REGIONS_FDS_DIFFER = "regions-fds-differ"
    REGION_SIZE_ZERO = "region-size-zero"
    REGION_GUEST_ADDRESS_WRAPS = "region-guest-address-wraps"
    REGION_USER_ADDRESS_WRAPS = "region-user-address-wraps"
    REGION_OFFSET_WRAPS = "region-offset-wraps"
    REGION_OVERLAP_GUEST = "region-overlap-guest"
    REGION_OVERLAP_USER = "region-overlap-user"
    FILE_SHORTER_THAN_REGION = "file-shorter-than-region"
    REGION_UNKNOWN = "region-unknown"
    REGION_MAP_FAILED = "region-map-failed"
    REGION_FILE_KIND = "region-file-kind"
    MEMORY_NOT_SHARED = "memory-not-shared"

    # This host's own
    JOURNAL_NOT_KEPT = "journal-not-kept"

    # Vrings
    VRING_INDEX = "vring-index"
    VRING_RESERVED_BITS = "vring-reserved-bits"
    VRING_SIZE_ZERO = "vring-size-zero"
    VRING_SIZE_NOT_POWER_OF_TWO = "vring-size-not-power-of-two"
    VRING_SIZE_TOO_LARGE = "vring-size-too-large"
    VRING_BASE_RANGE = "vring-base-range"
    VRING_STARTED = "vring-started"
    VRING_FLAGS = "vring-flags"
    VRING_MISALIGNED = "vring-misaligned"
    VRING_ADDRESS_WRAPS = "vring-address-wraps"
    VRING_OUTSIDE_MEMORY = "vring-outside-memory"
    VRING_CROSSES_REGION = "vring-crosses-region"
    VRING_ENABLE_VALUE = "vring-enable-value"
    VRING_FD_NOT_EVENTFD = "vring-fd-not-eventfd"

    # IOTLB (vhost-user "IOMMU support")
    IOTLB_TYPE = "iotlb-type"
    IOTLB_PERMISSIONS = "iotlb-permissions"
    IOTLB_SIZE_ZERO = "iotlb-size-zero"
    IOTLB_ADDRESS_WRAPS = "iotlb-address-wraps"
    IOTLB_OUTSIDE_MEMORY = "iotlb-outside-memory"
    IOTLB_ACCESS_DENIED = "iotlb-access-denied"
    IOTLB_MISS_REFUSED = "iotlb-miss-refused"
    IOTLB_WITHOUT_CHANNEL = "iotlb-without-channel"

    # Dirty log (vhost-user "Migration")
    LOG_SIZE_ZERO = "log-size-zero"
    LOG_OFFSET_WRAPS = "log-offset-wraps"
    LOG_FILE_TOO_SHORT = "log-file-too-short"
    LOG_MAP_FAILED = "log-map-failed"
    LOG_FILE_KIND = "log-file-kind"
    LOG_SMALLER_THAN_MEMORY = "log-smaller-than-memory"

    # In-flight region (vhost-user "Inflight I/O tracking")
    INFLIGHT_QUEUES = "inflight-queues"
    INFLIGHT_QUEUE_SIZE = "inflight-queue-size"
    INFLIGHT_OFFSET_WRAPS = "inflight-offset-wraps"
    INFLIGHT_MISALIGNED = "inflight-misaligned"
    INFLIGHT_TOO_SMALL = "inflight-too-small"
    INFLIGHT_FILE_TOO_SHORT = "inflight-file-too-short"
    INFLIGHT_MAP_FAILED = "inflight-map-failed"
    INFLIGHT_FILE_KIND = "inflight-file-kind"
    INFLIGHT_NO_MEMORY = "inflight-no-memory"
    INFLIGHT_WHILE_STARTED = "inflight-while-started"
    INFLIGHT_WITH_POSTCOPY = "inflight-with-postcopy"
    INFLIGHT_BASE_WITHOUT_REGION = "inflight-base-without-region"

    # Net requests
    MTU_RANGE = "mtu-range"
    MTU_TOO_LARGE = "mtu-too-large"
    RARP_MAC_ZERO = "rarp-mac-zero"
    RARP_MAC_MULTICAST = "rarp-mac-multicast"

    # Configuration space (vhost-user "Virtio device config space")
    CONFIG_RANGE = "config-range"
    CONFIG_FLAGS = "config-flags"
    CONFIG_READ_ONLY = "config-read-only"
    CONFIG_VALUE = "config-value"

    # Device state (vhost-user "Migrating back-end state")
    DEVICE_STATE_DIRECTION = "device-state-direction"
    DEVICE_STATE_PHASE = "device-state-phase"
    DEVICE_STATE_WHILE_STARTED = "device-state-while-started"
    DEVICE_STATE_NOT_A_PIPE = "device-state-not-a-pipe"
    DEVICE_STATE_NOT_READ = "device-state-not-read"
    DEVICE_STATE_TOO_LARGE = "device-state-too-large"
    DEVICE_STATE_TRUNCATED = "device-state-truncated"
    DEVICE_STATE_DAMAGED = "device-state-damaged"
    DEVICE_STATE_VERSION = "device-state-version"
    DEVICE_STATE_STATION = "device-state-station"
    DEVICE_STATE_UNFINISHED = "device-state-unfinished"
    DEVICE_STATE_NONE = "device-state-none"

    # Postcopy (vhost-user "VHOST_USER_POSTCOPY_ADVISE" and after)
    POSTCOPY_NOT_ADVISED = "postcopy-not-advised"
    POSTCOPY_NOT_LISTENING = "postcopy-not-listening"
    POSTCOPY_WITH_MEMORY = "postcopy-with-memory"
    POSTCOPY_UNAVAILABLE = "postcopy-unavailable"
    POSTCOPY_MEMORY_KIND = "postcopy-memory-kind"
    POSTCOPY_SEVERAL_PAIRS = "postcopy-several-pairs"


class PeerError(Exception):
    """A peer did something wrong: the error's name, and the value seen in `detail`.

    `name` is a PeerErrorName where the protocol was broken; faults of a ring have their own
    names. A `fatal` error left something half changed: the connection cannot go on, even where
    the front-end asked for an acknowledgement.
    """

    def __init__(self, name: str, detail: str = "", *, fatal: bool = False) -> None:
        super().__init__(f"{name}: {detail}" if detail else str(name))
        self.name = name
        self.detail = detail
        self.fatal = fatal
