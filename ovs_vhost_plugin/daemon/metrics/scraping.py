# SPDX-License-Identifier: Apache-2.0
"""Serves metrics while the switch's row asks for it: one scrape after the other, ports in turn.

Workers are asked a few at a time, and the next when one has answered. So a turn of the loop has
few answers to check, however many ports there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon.events import Event, Heard
from ovs_vhost_plugin.daemon.loop import Loop
from ovs_vhost_plugin.daemon.metrics import place, values
from ovs_vhost_plugin.daemon.metrics.exporter_link import ExporterLink
from ovs_vhost_plugin.daemon.metrics.place import MetricsError, MetricsErrorName, MetricsPlace
from ovs_vhost_plugin.daemon.ovsdb.database import Standing
from ovs_vhost_plugin.ipc.commands import GetStats
from ovs_vhost_plugin.ipc.reports import Stats

vlog = Vlog("vhost_metrics")

AT_ONCE = 2
"""Workers that are asked at a time: an answer with 128 queue pairs takes 5 ms to check."""
PATIENCE = 1.0
"""Seconds for the answer of a worker."""
LONGEST = 5.0
"""Seconds for a scrape: Prometheus waits for 10 s by default."""
PAUSE = 0.5
"""Seconds from the begin of a scrape to the next, whatever the exporter asks."""
RETRY = 5.0
"""Seconds until the place, or the process, is tried again."""

_FIRST_ID = 1 << 52  # above those of `vhost/stats`

MakeLink = Callable[[Any], ExporterLink]


class Scraping:
    """The exporter while it is wanted, and the scrape that it has asked for."""

    def __init__(self, loop: Loop, rundir: Path, make_link: MakeLink = ExporterLink) -> None:
        self.error = ""
        """Why metrics are not served, as name and text; "": they are, or nobody wants them."""
        self._loop = loop
        self._rundir = rundir
        self._make_link = make_link
        self._wanted = ""  # the key's value
        self._place: MetricsPlace | None = None
        self._link: ExporterLink | None = None
        self._retry_at: float | None = None
        self._due = self._scraping = False
        self._next_at = 0.0  # the earliest time of the next scrape
        self._left: deque[str] = deque()  # ports that are not asked yet
        self._asked: dict[int, tuple[str, float]] = {}  # by request: port, until when it counts
        self._until = 0.0  # of the scrape
        self._last_id = _FIRST_ID

    @property
    def shown(self) -> str:
        """Where metrics are served, or why not; "" if nobody wants them."""
        return self.error or ("" if self._place is None else str(self._place))

    def take(self, events: Iterable[Event]) -> None:
        """Take the workers' answers."""
        for event in events:
            match event:
                case Heard(name, Stats(request, stats)) if request in self._asked:
                    if self._asked[request][0] == name:
                        del self._asked[request]
                        self._tell(name, stats)

    def run(self, now: float) -> None:
        """Follow the row, and go on with the scrape."""
        if (wanted := self._asked_for()) != self._wanted:
            self._wanted = wanted
            self._leave()
            self._retry_at = now
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._serve(now)
        if (link := self._link) is None:
            return
        link.flush()
        self._due = link.asked() or self._due
        if self._due and not self._scraping and now >= self._next_at:
            self._due, self._scraping = False, True
            self._until, self._next_at = now + LONGEST, now + PAUSE
            self._left.extend(self._loop.desired)
        if link.gone:
            self._ended("the process that serves them has ended", now)
        elif self._scraping:
            self._go_on(link, now)

    def wait(self, poller: Any, now: float) -> None:
        """Register what `run` waits for."""
        if self._link is not None:
            poller.fd_wait(self._link.fileno(), self._link.events)
        times = [at for _, at in self._asked.values()]
        if self._retry_at is not None:
            times.append(self._retry_at)
        if self._due and not self._scraping:
            times.append(self._next_at)
        if self._link is not None and self._may_ask(self._link):
            times.append(now)
        if times:
            poller.timer_wait(max(0.0, (min(times) - now) * 1e3) + 1)

    def close(self) -> None:
        """Serve no more."""
        self._leave()

    # -- the scrape ------------------------------------------------------------------------------

    def _go_on(self, link: ExporterLink, now: float) -> None:
        """Ask the next ports as others have answered, or had their time; tell the end."""
        for request, (name, until) in list(self._asked.items()):
            if now >= until:
                del self._asked[request]
                self._tell(name, None)
        for _ in range(AT_ONCE):
            if self._may_ask(link):
                self._ask(self._left.popleft(), now)
        if not self._left and not self._asked:
            self._scraping = False
            link.send({"daemon": values.of_daemon(self._loop)})

    def _may_ask(self, link: ExporterLink) -> bool:
        return bool(self._left) and link.idle and len(self._asked) < AT_ONCE

    def _ask(self, name: str, now: float) -> None:
        worker = self._loop.ports.workers.links.get(name)
        self._last_id += 1
        late = now >= self._until
        if not late and worker is not None and worker.send(GetStats(self._last_id), now):
            self._asked[self._last_id] = name, now + PATIENCE
        else:
            self._tell(name, None)

    def _tell(self, name: str, stats: dict[str, Any] | None) -> None:
        told = values.of_port(self._loop, name, stats)
        if told is not None and self._link is not None:
            self._link.send(told)

    # -- the process -----------------------------------------------------------------------------

    def _asked_for(self) -> str:
        """The row's value; none while another daemon serves, and as before while it is unknown."""
        if self._loop.database.standing is Standing.CONTENDED:
            return ""
        snapshot = self._loop.snapshot
        return self._wanted if snapshot is None else snapshot.switch.metrics

    def _serve(self, now: float) -> None:
        try:
            self._place = place.parse_place(self._wanted, self._rundir)
            if self._place is None:
                return
            with place.listen(self._place) as listener:
                self._link = self._make_link(listener)
        except MetricsError as error:
            again = error.name is not MetricsErrorName.PLACE_INVALID
            self._fail(str(error), now if again else None)
        except OSError as error:
            if process.fds_exhausted(error):
                raise
            self._ended(str(error), now)
        else:
            self.error = ""
            vlog.info(f"serving metrics at {self._place}")

    def _ended(self, why: str, now: float) -> None:
        self._leave()
        self._fail(f"{MetricsErrorName.NOT_SERVED}: {why}", now)

    def _fail(self, error: str, now: float | None) -> None:
        self._retry_at = None if now is None else now + RETRY
        if error != self.error:
            self.error = error
            vlog.warn(error)

    def _leave(self) -> None:
        self.error = ""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        where, self._place = self._place, None
        if where is not None:
            place.remove(where)
        self._due = self._scraping = False
        self._left.clear()
        self._asked.clear()
