# SPDX-License-Identifier: Apache-2.0
"""The state of a NIC's back-end: the guest's stations, which move with the guest.

On the source the state has the stations that the data path learned and the MAC that SEND_RARP
named. On the destination they count as learned: all of them are announced when the guest runs, and
age as if they had been seen here.
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

    @property
    def busy(self) -> bool:
        """Whether a state is being moved, or has come and the guest has not run yet."""
        return self._transfer is not None or self._arrived

    @property
    def rarp_mac(self) -> bytes | None:
        """The MAC that SEND_RARP named; None: there was none."""
        return self._nic

    def rarp(self, mac: bytes) -> None:
        """Record the NIC's MAC, as SEND_RARP named it."""
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
        """End the last transfer; return whether it brought a guest's state. Raises PeerError."""
        transfer, self._transfer = self._transfer, None
        if transfer is None:
            raise PeerError(PeerErrorName.DEVICE_STATE_NONE)
        try:
            data = transfer.result()
            if transfer.loads:
                now = self._clock()
                # The daemon has to know it before the rings start, as their start announces.
                self._addresses.inherit(savedstate.decode(data, int(1000 * now)), now)
                self._arrived = True
            return transfer.loads
        finally:
            transfer.close()

    def take_arrival(self) -> bool:
        """Whether a state has come since the last call, so that a guest has moved in."""
        arrived, self._arrived = self._arrived, False
        return arrived

    def forget(self) -> None:
        """Forget the guest, which has gone with the front-end."""
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
