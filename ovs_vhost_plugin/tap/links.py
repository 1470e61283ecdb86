# SPDX-License-Identifier: Apache-2.0
"""Taps as links: rtnetlink shows and removes them.

Not by /sys: the namespace whose devices /sys shows depends on who mounted it.
Source: rtnetlink(7), linux/if_link.h (IFLA_TUN_*), drivers/net/tun.c (tun_fill_info).
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import Any

_ROOT = 0xFFFF_FFFF  # linux/pkt_sched.h, TC_H_ROOT


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
        # Imported late: fork server and workers do not need it.
        from pyroute2 import IPRoute

        self._links: Any = IPRoute()

    def tap(self, index: int) -> TapLink | None:
        """The tap with this ifindex; None where there is no link, or one of another kind."""
        from pyroute2 import NetlinkError

        try:
            found = self._links.get_links(index)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise OSError(error.code, os.strerror(error.code)) from error
        return _parse(found[0]) if found else None

    def delete(self, index: int) -> None:
        """Remove a link even while its queues are open; OSError when the kernel refuses."""
        from pyroute2 import NetlinkError

        try:
            self._links.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise OSError(error.code, os.strerror(error.code)) from error

    def remove_queues(self, index: int) -> None:
        """Let a link that was never up send without queueing (tc(8), noqueue).

        A kernel that refuses gives it queues, which cost memory and do no harm.
        """
        from pyroute2 import NetlinkError

        with contextlib.suppress(NetlinkError):
            self._links.tc("replace", "noqueue", index, parent=_ROOT)

    def close(self) -> None:
        """Close the socket."""
        self._links.close()


def _parse(link: Any) -> TapLink | None:
    about = link.get_attr("IFLA_LINKINFO")
    if about is None or about.get_attr("IFLA_INFO_KIND") != "tun":
        return None
    tun = about.get_attr("IFLA_INFO_DATA")
    numbers = (tun.get_attr("IFLA_TUN_NUM_QUEUES"), tun.get_attr("IFLA_TUN_NUM_DISABLED_QUEUES"))
    return TapLink(
        index=link["index"],
        owner=tun.get_attr("IFLA_TUN_OWNER"),
        queues=sum(number or 0 for number in numbers),
        carrier=bool(link.get_attr("IFLA_CARRIER")),
    )
