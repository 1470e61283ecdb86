# SPDX-License-Identifier: Apache-2.0
"""Taps as links: rtnetlink shows and removes them.

Not by /sys: the namespace whose devices /sys shows depends on who mounted it.
Source: rtnetlink(7), linux/if_link.h (IFLA_TUN_*), drivers/net/tun.c (tun_fill_info).
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# linux/netlink.h: length, type, flags, sequence, port; of an attribute: length, type
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR_NUMBER = struct.Struct("=i")
_ASK = struct.Struct("=IHHII BxHiII")  # with linux/rtnetlink.h, struct ifinfomsg
_REQUEST, _ERROR, _KIND = 1, 2, 0x3FFF
_GETLINK = 18
_LONGEST = 64 * 1024
# linux/if_link.h
_LINKINFO, _CARRIER = 18, 33
_INFO_KIND, _INFO_DATA = 1, 2
_TUN_OWNER, _TUN_QUEUES = 1, (8, 9)


@dataclass(frozen=True, slots=True)
class TapLink:
    """A tap's current state.

    owner   uid that may attach without privileges; None: everybody may
    queues  number of open queues, detached ones too
    """

    index: int
    owner: int | None
    queues: int
    carrier: bool


class Links:
    """The links of the network namespace in which this was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    def tap(self, index: int) -> TapLink | None:
        """The tap with this ifindex; None where there is no link, or one of another kind.

        The library decodes all that there is to know, which takes ten times as long; a daemon that
        starts asks for a thousand taps.
        """
        self._socket.send(_ASK.pack(_ASK.size, _GETLINK, _REQUEST, 0, 0, 0, 0, index, 0, 0))
        answer = self._socket.recv(_LONGEST)
        kind = _HEADER.unpack_from(answer)[1]
        if kind == _ERROR:
            number = -_ERROR_NUMBER.unpack_from(answer, _HEADER.size)[0]
            if number == errno.ENODEV:
                return None
            raise OSError(number, os.strerror(number))
        return _parse(index, answer[_ASK.size :])

    @cached_property
    def _library(self) -> Any:
        # Imported late: fork server and workers do not need it.
        from pyroute2 import IPRoute

        return IPRoute()

    def delete(self, index: int) -> None:
        """Remove a link even while its queues are open; OSError when the kernel refuses."""
        from pyroute2 import NetlinkError

        try:
            self._library.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise OSError(error.code, os.strerror(error.code)) from error


def _parse(index: int, link: bytes) -> TapLink | None:
    found = dict(_attributes(link))
    about = dict(_attributes(found.get(_LINKINFO, b"")))
    if about.get(_INFO_KIND) != b"tun\0":
        return None
    tun = dict(_attributes(about.get(_INFO_DATA, b"")))
    owner = tun.get(_TUN_OWNER)
    return TapLink(
        index=index,
        owner=None if owner is None else _number(owner),
        queues=sum(_number(tun[kind]) for kind in _TUN_QUEUES if kind in tun),
        carrier=bool(found.get(_CARRIER, b"\0")[0]),
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message or of a nested one, each padded to 4 bytes (netlink(7))."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & _KIND, data[_ATTRIBUTE.size : length]
        data = data[max(length + 3 & ~3, _ATTRIBUTE.size) :]


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)
