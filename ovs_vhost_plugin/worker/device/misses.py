# SPDX-License-Identifier: Apache-2.0
"""IOTLB misses: each translation is asked for once, and remembered until the answer.

A ring stops at the first address without a translation, so it waits for one at a time. A waiting
ring costs nothing: if the front-end never answers, the ring never goes on. If it is known that no
translation will come, an error says so by name.
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
"""Sends a request on the back-end channel; False: there is no channel."""


@dataclass(slots=True)
class _Miss:
    iova: int
    access: IotlbAccess
    denied: bool = False


class Misses:
    """The translations that the vrings of one port wait for, by vring index."""

    def __init__(self, ask: Ask, on_error: Callable[[PeerError], None]) -> None:
        self.count = 0
        """Translations asked for since the start."""
        self._ask = ask
        self._on_error = on_error
        self._open: dict[int, _Miss] = {}

    def missed(self, index: int, iova: int, access: IotlbAccess) -> None:
        """Ask for a translation of `iova`, without which vring `index` cannot go on."""
        before = self._open.get(index)
        if before is not None and (before.iova, before.access) == (iova, access):
            return
        self._open[index] = miss = _Miss(iova, access)
        if not self._send(index, miss):
            self._report(PeerErrorName.IOTLB_WITHOUT_CHANNEL, index, miss)

    def ask_again(self) -> None:
        """Ask again on a new channel: the old channel may never bring the answers."""
        for index, miss in self._open.items():
            self._send(index, miss)

    def updated(self, iova: int, size: int, access: IotlbAccess) -> list[int]:
        """The vrings that can go on now that [iova, +size) is translated for `access`.

        If the translation lacks the access that a vring needs, the front-end is told so.
        """
        found = [i for i, miss in self._open.items() if 0 <= miss.iova - iova < size]
        granted = [i for i in found if self._open[i].access & access]
        for index in granted:
            del self._open[index]
        for index in set(found).difference(granted):
            self._deny(index, self._open[index])
        return granted

    def drop(self, index: int) -> None:
        """Forget the miss of vring `index`, which was stopped."""
        self._open.pop(index, None)

    def clear(self) -> None:
        """Forget all misses: the front-end has gone."""
        self._open.clear()

    def _send(self, index: int, miss: _Miss) -> bool:
        payload = iotlb_requests.miss(miss.iova, miss.access)
        sent = self._ask(BackendRequest.IOTLB_MSG, payload, partial(self._answered, index, miss))
        self.count += sent
        return sent

    def _answered(self, index: int, miss: _Miss, status: int) -> None:
        """Handle the answer: an update was sent, or the front-end has no translation."""
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
