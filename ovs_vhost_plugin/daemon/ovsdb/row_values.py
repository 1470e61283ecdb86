# SPDX-License-Identifier: Apache-2.0
"""Errors of a row, by name, and values that rows of several tables have. Pure."""

from enum import StrEnum

import netaddr

from ovs_vhost_plugin.common.named import NamedError


class RowErrorName(StrEnum):
    """Errors of a row."""

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
    """A row that makes no port: the name is for programs, the text has a remedy."""


def is_true(text: str | None) -> bool:
    """Whether a key is set to true."""
    return text is not None and text.lower() == "true"  # as smap_get_bool()


def parse_mac(text: str) -> bytes | None:
    """The six bytes of a MAC in any usual spelling; None if the text is no MAC."""
    if not netaddr.valid_mac(text):
        return None
    packed: bytes = netaddr.EUI(text, version=48).packed
    return packed
