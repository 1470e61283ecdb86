# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the parts of a device."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.ring import iotlb
from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.worker.device.device import Observer
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.ring import Ring
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig, Start
from ovs_vhost_plugin.worker.tap.hold import Reason


class FakePair(QueuePair):
    """A queue pair without a thread: each run moves its rings on by 3, as if for 3 chains."""

    def __init__(self, index: int) -> None:
        super().__init__(index, tap_fd=-1)
        self.config: Any = None
        """The configuration by which the rings run; None: they do not."""
        self.forgotten = 0
        self.starts = 0
        self.waiting: list[bytes] = []
        self.given: list[bytes] = []
        self.stands_at: int | None = None
        self.kicks = {"rx_kicks": 0, "tx_kicks": 0}
        self._next_config: Any = None

    @property
    def running(self) -> bool:
        return self.config is not None

    @property
    def counters(self) -> dict[str, int]:
        return super().counters | self.kicks

    def prepare(self, config: PairConfig) -> None:
        """Prepare the rings; they resume at `stands_at` if a journal is to have said so."""
        vrings = {kind: getattr(config, kind) for kind in ("rx", "tx")}
        if self.stands_at is not None:
            config = replace(
                config,
                **{
                    kind: replace(vring, next_avail=self.stands_at)
                    for kind, vring in vrings.items()
                    if vring is not None and vring.start is Start.FRONT_END
                },
            )
        super().prepare(config)
        self._next_config = config

    def start(self) -> None:
        assert self.config is None
        self.config, self._next_config, self._prepared = self._next_config, None, None
        self.starts += 1

    def stop(self, *, quietly: bool = False) -> None:
        for ring in self.rings:
            vring = self.config and getattr(self.config, ring.kind)
            if vring is not None:
                ring.state["next_avail"] = (vring.next_avail + 3) % 65536
        self.config = None
        super().stop(quietly=quietly)

    @property
    def tells_of_kicks(self) -> bool:
        return bool(self._net.state["cfg_tell_kicks"][0])

    def break_ring(self, ring: Ring, fault: Fault) -> None:
        """Break `ring`, as the loop does."""
        ring.state["fault"] = fault

    def miss(self, ring: Ring, iova: int) -> None:
        """Let `ring` wait for the translation of a buffer's address, as the loop does."""
        ring.queue.state["iotlb_asked"], ring.queue.state["iotlb_missed"] = iotlb.BUFFER, iova

    def take_waiting(self) -> list[bytes]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def give(self, frames: Sequence[bytes]) -> None:
        self.given += frames

    def forget(self) -> None:
        assert self.config is None
        self.forgotten += 1


class FakeTaps:
    takes_uso = True

    def __init__(self) -> None:
        self.carrier = False
        self.attached: list[bool] = []
        self.header_size = 0
        self.discarded = 0
        self.detached = 0
        """The number of times that a queue was detached; queue 0 never is."""

    def set_format(self, header_size: int, _features: int) -> None:
        self.header_size = header_size

    def set_carrier(self, up: bool) -> None:
        self.carrier = up

    def discard(self) -> None:
        self.discarded += 1

    def set_attached(self, wanted: list[bool]) -> None:
        pairs = list(zip(self.attached, wanted, strict=False))  # the first time there are none
        self.detached += sum(was and not now for was, now in pairs[1:])
        self.attached = list(wanted)


class FakeHolding:
    """A hold of what it is given."""

    def __init__(self) -> None:
        self.enabled = True
        self.held: dict[int, list[bytes]] = {}
        self.gone = 0
        self.until = math.inf
        self.ended: list[Reason] = []

    def begin(self, queue: int, waiting: list[bytes]) -> None:
        self.held[queue] = list(waiting)

    def drain(self, queue: int, waiting: list[bytes]) -> list[bytes]:
        return [*waiting, f"queue {queue}".encode()]

    def covers(self, queue: int) -> bool:
        return queue in self.held

    def give_back(self, queue: int) -> list[bytes]:
        return self.held.pop(queue)

    def front_end_gone(self) -> None:
        self.gone += 1

    def configure(self, settings: PortSettings) -> None:
        self.enabled = settings.hold

    @property
    def active(self) -> bool:
        return bool(self.held)

    def end(self, reason: Reason) -> None:
        self.held.clear()
        self.ended.append(reason)

    def expired(self, now: float) -> bool:
        return self.active and now >= self.until

    def get_timer(self) -> float | None:
        return self.until if self.active else None


class FakeState:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.brought = False

    def rarp(self, mac: bytes) -> None:
        self.asked.append(mac)

    def save(self, fd: int) -> None:
        self.asked.append(("save", fd))

    def load(self, fd: int) -> None:
        self.asked.append(("load", fd))

    def check(self) -> bool:
        self.asked.append("check")
        return self.brought

    def forget(self) -> None:
        self.asked.append("forget")


class Observed(Observer):
    """What a device tells; what is not kept here is heard by nobody."""

    def __init__(self) -> None:
        self.rarps: list[bytes] = []
        self.bases: list[int] = []
        self.further_bases: list[int] = []
        self.errors: list[PeerError] = []
        self.busies = 0
        self.pairs = 0
        self.wrong: PeerError | None = None

    def rarp(self, mac: bytes) -> None:
        self.rarps.append(mac)

    def started(self, base: int, *, further: bool) -> None:
        (self.further_bases if further else self.bases).append(base)

    def error(self, error: PeerError) -> None:
        self.errors.append(error)

    def lasting(self, error: PeerError | None) -> None:
        self.wrong = error

    def pairs_wanted(self, pairs: int) -> None:
        self.pairs = pairs

    def busy(self) -> None:
        self.busies += 1
