# SPDX-License-Identifier: Apache-2.0
"""Repeats announcements whose trigger comes only once, in QEMU's terms; told the time.

A broadcast may be lost on the way to switches that nobody can ask. QEMU therefore sends SEND_RARP
in rounds; a trigger that comes from elsewhere gets rounds of the same timing here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovs_vhost_plugin.announce.policy import Policy


@dataclass(frozen=True, slots=True)
class _Series:
    trigger: str
    policy: Policy
    done: int
    due_at: float


class Rounds:
    """At most one series a port: a new one takes the place of the one under way."""

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}

    def begin(self, port: str, trigger: str, policy: Policy, now: float) -> None:
        """Note that the first round is being sent now."""
        self._next(port, _Series(trigger, policy, 0, now))

    def cancel(self, port: str) -> None:
        """End the rounds of `port`."""
        self._series.pop(port, None)

    def handle_timer(self, now: float) -> list[tuple[str, str]]:
        """Return the port and the trigger of each round that is to be sent now."""
        due = [(port, one) for port, one in self._series.items() if now >= one.due_at]
        for port, one in due:
            self._next(port, one)
        return [(port, one.trigger) for port, one in due]

    def get_timer(self) -> float | None:
        """When the next round is due, None for never."""
        return min((one.due_at for one in self._series.values()), default=None)

    def _next(self, port: str, one: _Series) -> None:
        delay = one.policy.delay(one.done + 1)
        if delay is None:
            self._series.pop(port, None)
        else:
            due_at = one.due_at + delay
            self._series[port] = _Series(one.trigger, one.policy, one.done + 1, due_at)
