# SPDX-License-Identifier: Apache-2.0
"""An outbox that keeps what it is told, and a daemon that is there or not."""

from ovs_vhost_plugin.ipc.reports import Report


class FakeOutbox:
    def __init__(self) -> None:
        self.is_open = True
        self.told: list[Report] = []
        self.states: dict[type[Report], Report] = {}

    def tell(self, event: Report) -> bool:
        if self.is_open:
            self.told.append(event)
        return self.is_open

    def keep(self, state: Report) -> None:
        self.states[type(state)] = state

    def forget(self, kind: type[Report]) -> None:
        self.states.pop(kind, None)
