# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a row, by name, and the values that rows of several tables have. Pure."""

from enum import StrEnum

import netaddr

from ovs_vhost_plugin.common.named import NamedError


class RowErrorName(StrEnum):
    """What can be wrong with a row."""

    NAME_TOO_LONG = "name-too-long"
    NAME_INVALID = "name-invalid"
    MODE_UNKNOWN = "mode-unknown"
    PATH_MISSING = "path-missing"
    PATH_UNEXPECTED = "path-unexpected"
    PATH_RELATIVE = "path-relative"
    PATH_INVALID = "path-invalid"
    PATH_TOO_LONG = "path-too-long"
    PATH_IN_USE = "path-in-use"
    SOCK_DIR_INVALID = "sock-dir-invalid"
    QUEUES_INVALID = "queues-invalid"
    MTU_OUT_OF_RANGE = "mtu-out-of-range"
    BRIDGE_NAME_INVALID = "bridge-name-invalid"


class RowError(NamedError):
    """A row that makes no port: the name is for programs, the text says what to do."""


def is_true(text: str | None) -> bool:
    """Whether a key is set to true."""
    return text is not None and text.lower() == "true"  # as smap_get_bool()


def parse_mac(text: str) -> bytes | None:
    """Six bytes of any usual spelling, None if it is none."""
    if not netaddr.valid_mac(text):
        return None
    packed: bytes = netaddr.EUI(text, version=48).packed
    return packed
