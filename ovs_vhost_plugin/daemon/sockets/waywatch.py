# SPDX-License-Identifier: Apache-2.0
"""Watches the ways to sockets that are not there yet: one inotify(7) instance for all ports.

A way is what a walk (`sockpath.py`) has looked for: names, each in a directory. All of them are
watched, also links and the directories above, as any may come, go or be replaced. A name is watched
before the walk looks for it, so nothing is missed in between. Mounts are seen by `mountpoints.py`.

The instance is the daemon's. A worker has no files to watch, and a user may have only 128 instances
(fs.inotify.max_user_instances).
"""

import errno
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ovs_vhost_plugin.common.ratelimit import TokenBucket
from ovs_vhost_plugin.daemon.sockets import inotify
from ovs_vhost_plugin.daemon.sockets.inotify import Inotify
from ovs_vhost_plugin.daemon.sockets.mountpoints import MountPoints
from ovs_vhost_plugin.daemon.sockets.sockpath import OnStep

_READS_PER_SECOND, _READS_AT_ONCE = 20.0, 100
"""News is read so often at most: who may write a directory can change names without end."""

_NEWS = inotify.CREATE | inotify.MOVED_TO | inotify.MOVED_FROM | inotify.DELETE | inotify.ATTRIB

_LIMITS = {
    errno.EMFILE: "raise fs.inotify.max_user_instances",
    errno.ENOSPC: "raise fs.inotify.max_user_watches",
}

Step = tuple[int, str]
"""A watch of a directory (inotify's descriptor), and a name in it."""


class WayWatch:
    """The ways of the ports that wait, by the ports' names.

    refusals  by port: why not all of its way is watched, for people to read
    """

    def __init__(self, now: float) -> None:
        self.refusals: dict[str, str] = {}
        self._reads = TokenBucket(_READS_PER_SECOND, _READS_AT_ONCE, now)
        self._read_at: float | None = None  # when there is news and no leave to read it yet
        self._ways: dict[str, dict[Step, str]] = {}  # by port: its steps and their paths
        self._ports_of: dict[Step, set[str]] = {}
        self._names_in: dict[int, set[str]] = {}  # by watch
        self._ports_at: dict[str, set[str]] = {}  # by path
        self._mounts = MountPoints()
        self._inotify: Inotify | None = None
        self._news = select.poll()

    # -- following -------------------------------------------------------------------------------

    @contextmanager
    def following(self, port: str) -> Iterator[OnStep]:
        """Watch the steps of the walk inside, in place of those of the port's walk before."""
        before = self._ways.pop(port, {})
        steps = self._ways[port] = {}
        self.refusals.pop(port, None)
        try:
            yield partial(self._follow, port, steps)
        finally:
            for step in before.keys() - steps.keys():
                self._drop(port, step, before[step])

    def forget(self, port: str) -> None:
        """Watch the port's way no more."""
        self.refusals.pop(port, None)
        for step, path in self._ways.pop(port, {}).items():
            self._drop(port, step, path)

    def _follow(self, port: str, steps: dict[Step, str], directory: int, name: str) -> None:
        here = f"/proc/self/fd/{directory}"
        try:
            watch = self._instance().add_watch(here, _NEWS | inotify.ONLYDIR)
        except NotADirectoryError:
            return  # the walk ends here, and the name by which it came is watched
        except OSError as error:
            advice = _LIMITS.get(error.errno or 0, "see inotify(7)")
            self.refusals[port] = f"inotify: {os.strerror(error.errno or 0)}; {advice}"
            return
        # Something may be mounted on this path; nothing is opened by it.
        path = f"{os.readlink(here).rstrip('/')}/{name}"  # noqa: PTH115 - a text, no Path
        steps[watch, name] = path
        self._ports_of.setdefault((watch, name), set()).add(port)
        self._names_in.setdefault(watch, set()).add(name)
        self._ports_at.setdefault(path, set()).add(port)

    def _instance(self) -> Inotify:
        """The inotify instance, made when it is needed. Raises OSError."""
        if self._inotify is None:
            self._inotify = Inotify()
            self._news.register(self._inotify, select.POLLIN)
        return self._inotify

    def _drop(self, port: str, step: Step, path: str) -> None:
        watch, name = step
        _take_out(self._ports_at, path, port)
        if not _take_out(self._ports_of, step, port) and not _take_out(self._names_in, watch, name):
            with suppress(OSError):  # the kernel has ended it: its directory is gone
                self._instance().rm_watch(watch)

    # -- hearing ---------------------------------------------------------------------------------

    def changed(self, now: float) -> set[str]:
        """The ports on whose ways something has changed since the last call."""
        ports = {port for path in self._mounts.changed() for port in self._ports_at.get(path, ())}
        self._read_at = None
        if self._inotify is None or not self._news.poll(0):
            return ports
        if not self._reads.take(now):
            self._read_at = self._reads.ready_at(now)
            return ports
        for event in self._inotify.read():
            if event.mask & inotify.Q_OVERFLOW:
                return set(self._ways)
            if event.mask & inotify.IGNORED:  # the directory is gone, or its file system
                names = self._names_in.get(event.watch, set())
            else:
                names = {event.name}
            for name in names:
                ports |= self._ports_of.get((event.watch, name), set())
        return ports

    def get_timer(self) -> float | None:
        """The time at which `changed` has news that it has put off; None: it has put off none."""
        return self._read_at

    def wait(self, poller: Any) -> None:
        """Register the fds that `changed` has to be called for."""
        if self._ways:
            self._mounts.wait(poller)
        if self._ways and self._inotify is not None and self._read_at is None:
            poller.fd_wait(self._inotify.fileno(), select.POLLIN)

    def close(self) -> None:
        """Watch nothing any more."""
        self._mounts.close()
        if self._inotify is not None:
            self._inotify.close()


def _take_out(sets: dict[Any, set[Any]], key: Any, member: Any) -> bool:
    """Remove a member of the set of `key`; return whether any is left."""
    left = sets.get(key, set())
    left.discard(member)
    if not left:
        sets.pop(key, None)
    return bool(left)
