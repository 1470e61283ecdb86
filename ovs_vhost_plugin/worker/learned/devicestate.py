# SPDX-License-Identifier: Apache-2.0
"""The state of a NIC's back-end: what its guest is known to use, which moves with the guest.

On the source it is what the data path learned, and the MAC that SEND_RARP named; on the
destination it counts as learned from then on, so that all of it is announced when the guest runs,
and ages as if it had been seen here.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.worker.learned import savedstate
from ovs_vhost_plugin.worker.learned.addresses import Addresses
from ovs_vhost_plugin.worker.learned.transfer import Transfer


class DeviceState:
    """The transfers of one port's states, one at a time."""

    def __init__(
        self,
        addresses: Addresses,
        selector: selectors.BaseSelector,
        clock: Callable[[], float],
    ) -> None:
        self._addresses = addresses
        self._selector = selector
        self._clock = clock
        self._nic: bytes | None = None
        self._arrived = False
        self._transfer: Transfer | None = None

    def rarp(self, mac: bytes) -> None:
        """SEND_RARP named the NIC's MAC."""
        self._nic = mac

    def save(self, fd: int) -> None:
        """Begin to write the state into the pipe `fd`, which it takes. Raises PeerError."""
        now = self._clock()
        nic = self._nic if self._nic is not None else self._addresses.nic
        saved = savedstate.Saved(nic, self._addresses.known(now))
        self._begin(fd, savedstate.encode(saved, int(1000 * now)))

    def load(self, fd: int) -> None:
        """Begin to read a state from the pipe `fd`, which it takes. Raises PeerError."""
        self._begin(fd, None)

    def check(self) -> bool:
        """Judge the last transfer; whether it brought a guest's state. Raises PeerError."""
        transfer, self._transfer = self._transfer, None
        if transfer is None:
            raise PeerError(PeerErrorName.DEVICE_STATE_NONE)
        try:
            data = transfer.result()
            if transfer.loads:
                now = self._clock()
                # The daemon is to know it before the rings start, which is what announces.
                self._addresses.inherit(savedstate.decode(data, int(1000 * now)), now)
                self._arrived = True
            return transfer.loads
        finally:
            transfer.close()

    def take_arrival(self) -> bool:
        """Whether a state has come since this was last asked: its guest has moved in."""
        arrived, self._arrived = self._arrived, False
        return arrived

    def forget(self) -> None:
        """The front-end has gone, and the guest with it."""
        self._nic = None
        self._arrived = False
        self._addresses.disinherit()
        self._drop()

    def _begin(self, fd: int, data: bytes | None) -> None:
        self._drop()
        self._transfer = Transfer(fd, data, savedstate.MAX_SIZE, self._selector)

    def _drop(self) -> None:
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.close()
