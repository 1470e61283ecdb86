# SPDX-License-Identifier: Apache-2.0
"""What rings behind an IOMMU wait for: asked for once, and remembered until it is answered.

A ring stops at the first address without a translation, so it waits for one at a time. While it
waits it costs nothing: a front-end that never answers has a ring that never goes on. Where it is
known that nothing will come, that has a name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ovs_vhost_plugin.vhost.backend_channel import OnAnswer
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.requests import iotlb as iotlb_requests
from ovs_vhost_plugin.vhost.spec import BackendRequest, IotlbAccess

Ask = Callable[[BackendRequest, bytes, OnAnswer | None], bool]
"""Sends a request on the back-end channel; False: there is none."""


@dataclass(slots=True)
class _Miss:
    iova: int
    access: IotlbAccess
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
        self._open[index] = miss = _Miss(iova, access)
        if not self._send(index, miss):
            self._report(PeerErrorName.IOTLB_WITHOUT_CHANNEL, index, miss)

    def ask_again(self) -> None:
        """There is another channel: what was asked on the one before may never be answered."""
        for index, miss in self._open.items():
            self._send(index, miss)

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

    def _send(self, index: int, miss: _Miss) -> bool:
        payload = iotlb_requests.miss(miss.iova, miss.access)
        sent = self._ask(BackendRequest.IOTLB_MSG, payload, partial(self._answered, index, miss))
        self.count += sent
        return sent

    def _answered(self, index: int, miss: _Miss, status: int) -> None:
        """The front-end has sent an update, or says that there is none."""
        if status and self._open.get(index) is miss:
            self._report(PeerErrorName.IOTLB_MISS_REFUSED, index, miss)

    def _deny(self, index: int, miss: _Miss) -> None:
        if miss.denied:
            return
        miss.denied = True
        self._report(PeerErrorName.IOTLB_ACCESS_DENIED, index, miss)
        payload = iotlb_requests.access_fail(miss.iova, miss.access)
        self._ask(BackendRequest.IOTLB_MSG, payload, None)

    def _report(self, name: PeerErrorName, index: int, miss: _Miss) -> None:
        self._on_error(PeerError(name, f"vring {index} waits: {miss.access.name} {miss.iova:#x}"))
