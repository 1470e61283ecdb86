# SPDX-License-Identifier: Apache-2.0
"""Which ports are to be looked at in a turn, so that no turn looks at all of them. Pure.

Something happened to a port: its row changed, its worker spoke, a time came. Then it is planned
(`reconcile.py`) until there is nothing more to do for it, and its keys are compared with its row.
"""

from collections import deque
from collections.abc import Iterable

from ovs_vhost_plugin.common.timers import Timers
from ovs_vhost_plugin.daemon.reconcile import Action, ConfigureWorker, Plan, Spawn

AT_ONCE = 64
"""Most ports planned in a turn."""


class Agenda:
    """Ports by name, whether they exist or not."""

    def __init__(self) -> None:
        self._touched: set[str] = set()  # since `take_touched`
        self._due: deque[str] = deque()
        self._is_due: set[str] = set()
        self._waiting: dict[str, None] = {}  # for a slot, in the order in which they came
        self._unpublished: set[str] = set()
        self._timers = Timers()

    def touch(self, names: Iterable[str]) -> None:
        """Note that something happened to these ports."""
        for name in names:
            self._touched.add(name)
            if name not in self._is_due:
                self._is_due.add(name)
                self._due.append(name)

    def take_touched(self) -> set[str]:
        """The ports that something happened to since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def take(self, slots: int, now: float) -> list[str]:
        """The ports to plan now; `slots` of those that wait for a slot are among them."""
        for name in self._timers.take_due(now):
            self._first(name)
        for name in list(self._waiting)[:slots] if slots > 0 else ():
            del self._waiting[name]
            self._first(name)
        names = [self._due.popleft() for _ in range(min(AT_ONCE, len(self._due)))]
        self._is_due.difference_update(names)
        return names

    def planned(self, names: Iterable[str], plan: Plan) -> None:
        """Take the plan of `names`: those with an action are due again, before others.

        So a port gets its tap and its worker before the next one gets a tap.
        """
        for name in names:
            self._timers.set(name, plan.wakes.get(name))
        for name in plan.waiting:
            self._waiting[name] = None
        for action in reversed(plan.actions):
            self._first(name_of(action))

    def publish(self, names: Iterable[str]) -> None:
        """Note that the keys of these ports have to be compared with their rows."""
        self._unpublished.update(names)

    def take_unpublished(self) -> set[str]:
        """The ports whose keys have to be compared."""
        names, self._unpublished = self._unpublished, set()
        return names

    def get_timer(self, now: float, *, slots: bool) -> float | None:
        """When `take` has something; `slots`: whether there are any."""
        if self._due or (slots and self._waiting):
            return now
        return self._timers.get_timer()

    def _first(self, name: str) -> None:
        if name not in self._is_due:
            self._is_due.add(name)
            self._due.appendleft(name)


def name_of(action: Action) -> str:
    """The port that an action is for."""
    return action.spec.name if isinstance(action, Spawn | ConfigureWorker) else action.name
