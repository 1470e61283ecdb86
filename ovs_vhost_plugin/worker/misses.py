# SPDX-License-Identifier: Apache-2.0
"""What rings behind an IOMMU wait for: asked for once, and remembered until it is answered.

A ring stops at the first address without a translation, so it waits for one at a time. While it
waits it costs nothing: a front-end that never answers has a ring that never goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ovs_vhost_plugin.vhost import iotlb_requests
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.spec import BackendRequest, IotlbAccess

Ask = Callable[[BackendRequest, bytes], bool]
"""Sends a request on the back-end channel; False: there is none."""


@dataclass(slots=True)
class _Miss:
    iova: int
    access: IotlbAccess
    asked: bool
    denied: bool = False


class Misses:
    """What the vrings of one port wait for, by their index."""

    def __init__(self, ask: Ask, on_error: Callable[[PeerError], None]) -> None:
        self.count = 0
        """Translations asked for, ever."""
        self._ask = ask
        self._on_error = on_error
        self._open: dict[int, _Miss] = {}

    def missed(self, index: int, iova: int, access: IotlbAccess) -> None:
        """Vring `index` cannot go on without a translation of `iova`."""
        before = self._open.get(index)
        if before is not None and (before.iova, before.access) == (iova, access):
            return
        self._open[index] = miss = _Miss(iova, access, asked=False)
        self._send(miss)

    def ask_again(self) -> None:
        """There is a channel now: ask for what could not be asked for."""
        for miss in self._open.values():
            if not miss.asked:
                self._send(miss)

    def updated(self, iova: int, size: int, access: IotlbAccess) -> list[int]:
        """The vrings that can go on, as [iova, +size) is translated for `access` now.

        Where it is not for the access that one needs, the front-end is told so.
        """
        found = [i for i, miss in self._open.items() if 0 <= miss.iova - iova < size]
        granted = [i for i in found if self._open[i].access & access]
        for index in granted:
            del self._open[index]
        for index in set(found).difference(granted):
            self._deny(index, self._open[index])
        return granted

    def drop(self, index: int) -> None:
        """Vring `index` waits no more: it was stopped."""
        self._open.pop(index, None)

    def clear(self) -> None:
        """The front-end has gone."""
        self._open.clear()

    def _send(self, miss: _Miss) -> None:
        miss.asked = self._ask(
            BackendRequest.IOTLB_MSG, iotlb_requests.miss(miss.iova, miss.access)
        )
        self.count += miss.asked

    def _deny(self, index: int, miss: _Miss) -> None:
        if miss.denied:
            return
        miss.denied = True
        detail = f"vring {index} waits: {miss.access.name} at {miss.iova:#x}"
        self._on_error(PeerError(PeerErrorName.IOTLB_ACCESS_DENIED, detail))
        payload = iotlb_requests.access_fail(miss.iova, miss.access)
        self._ask(BackendRequest.IOTLB_MSG, payload)
