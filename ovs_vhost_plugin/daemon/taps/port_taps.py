# SPDX-License-Identifier: Apache-2.0
"""The tap of each port: made, renewed and removed in a thread, and seen as it is."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.taps.changes import TapChanges
from ovs_vhost_plugin.daemon.taps.holders import Holders
from ovs_vhost_plugin.tap import TapError, Taps

vlog = Vlog("vhost_taps")


class PortTaps:
    """Taps by their ports' names.

    unopened  ports whose tap is not yet seen open in the switch: whether it was made here
    holders   finds others' queues
    """

    def __init__(
        self,
        taps: Taps,
        thread: Executor,
        note: Callable[[str, str, float], None],
        counters: Counter[str],
    ) -> None:
        """`thread` runs one function at a time, in their order.

        note      takes a port's fault: its name, the fault, the time
        counters  of faults by name
        """
        self.unopened: dict[str, bool] = {}
        self.holders = Holders(taps, counters)
        self._taps = taps
        self._changes = TapChanges(thread)
        self._note = note
        self._seen: dict[str, int | None] = {}
        self._first_queues: dict[str, int] = {}  # of taps that were made since, and have no worker

    def adopt(self, names: Iterable[str]) -> None:
        """Take the taps of an earlier daemon, with whatever is attached to them."""
        for name in names:
            self.unopened.setdefault(name, False)
            self.holders.claim(name)

    def seen(self, name: str) -> int | None:
        """The ifindex of a port's tap, as it was when something had last happened to the port."""
        if name not in self._seen:
            self._seen[name] = self._taps.owned(name)
        return self._seen[name]

    def look_again(self, name: str) -> None:
        """Forget the observed state of a tap: something changed outside."""
        self._seen.pop(name, None)

    def is_changing(self, name: str) -> bool:
        """Whether the tap is being made or removed."""
        return self._changes.is_under_way(name)

    def is_open_in_switch(self, name: str) -> bool:
        """Whether the switch has opened this very tap."""
        return self._taps.is_open_in_switch(name)

    # -- changes ---------------------------------------------------------------------------------

    def make(self, name: str) -> None:
        """Begin to make a tap; a failure becomes the port's fault."""
        self.unopened[name] = True
        self._begin(name, self._taps.make, partial(self._made, name), None)

    def _made(self, name: str, queue: int | None, _now: float) -> None:
        if queue is not None:
            self._first_queues[name] = queue
        vlog.info(f"{name}: tap created")

    def remove(
        self,
        name: str,
        then: Callable[[float], None],
        otherwise: Callable[[TapError, float], None] | None = None,
    ) -> None:
        """Begin to remove a tap; a failure becomes the port's fault where `otherwise` is None."""
        self._close_queue(name)
        self._begin(name, self._taps.delete, lambda _, now: then(now), otherwise)

    def _begin(
        self,
        name: str,
        change: Callable[[str], Any],
        then: Callable[[Any, float], None],
        otherwise: Callable[[TapError, float], None] | None,
    ) -> None:
        self.look_again(name)
        fault = otherwise or (lambda error, now: self._note(name, str(error), now))
        self._changes.begin(name, change, then, fault)

    def open_first(self, name: str) -> int | None:
        """The first queue for a worker, which the caller closes; raises TapError.

        None when there is no tap for it: others hold it, so that it is made anew, or it has gone.
        """
        if (queue := self._first_queues.pop(name, None)) is not None:
            return queue  # it was root's before anybody else saw it
        self.look_again(name)
        if self.seen(name) is None:
            return None
        if self.holders.without(name):
            self.remove(name, lambda _: self.make(name))
            return None
        self._taps.set_up(name)
        return self._taps.open_first(name)

    def _close_queue(self, name: str) -> None:
        if (queue := self._first_queues.pop(name, None)) is not None:
            os.close(queue)

    # -- the loop --------------------------------------------------------------------------------

    def run(self, now: float) -> list[str]:
        """Finish the changes that have ended; return their ports."""
        return self._changes.run(now)

    def wait(self, poller: Any) -> None:
        """Register the fd for which `run` has to be called."""
        self._changes.wait(poller)

    def forget(self, name: str) -> None:
        """Forget a tap that has gone."""
        self.unopened.pop(name, None)
        self.look_again(name)

    def let_go(self, now: float) -> None:
        """Leave all taps to another daemon."""
        self._changes.settle(now)
        for name in list(self._first_queues):
            self._close_queue(name)
        self.holders.forget_all()
        self.unopened.clear()
        self._seen.clear()

    def close(self) -> None:
        """Wait for the thread, and close what is open. The taps stay."""
        self._changes.close()
        for name in list(self._first_queues):
            self._close_queue(name)
