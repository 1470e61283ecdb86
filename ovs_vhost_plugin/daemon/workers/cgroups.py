# SPDX-License-Identifier: Apache-2.0
"""A control group for each worker, if the daemon's own group is delegated (systemd: Delegate=).

The group bounds the worker's threads, and its end kills all of its processes at once. Without a
group, the PID namespace and the limits of `worker/birth/sandbox.py` do the same. Memory is not
bounded here: a page counts for the process that touches it first, and a worker touches its guest's
pages when it puts frames into them. Source: Linux, Documentation/admin-guide/cgroup-v2.rst.
"""

import contextlib
import os
from collections import defaultdict
from pathlib import Path

_DELEGATED = ("user.delegate", "trusted.delegate")
"""The extended attributes by which systemd marks a group as delegated (its Delegate=)."""
_PREFIX = "port-"


def own_group(groups: str, mounts: str) -> Path | None:
    """This process's group in the unified hierarchy; None if that is not mounted.

    groups, mounts: the texts of /proc/self/cgroup and /proc/self/mountinfo.
    """
    path = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), None)
    for line in mounts.splitlines():
        # proc_pid_mountinfo(5): the fifth field is the place, and the file system follows " - "
        where, kind = line.split()[4], line.partition(" - ")[2].split()[0]
        if kind == "cgroup2" and path is not None:
            return Path(where) / path.lstrip("/")
    return None


def find() -> "Cgroups":
    """The groups that this daemon may make."""
    own = own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    return Cgroups(own if own is not None and _is_delegated(own) else None)


def _is_delegated(group: Path) -> bool:
    for attribute in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(group, attribute) == b"1":
                return True
    return False


class Cgroups:
    """The groups below `own`, one a worker; without `own`, none. Nothing here raises."""

    def __init__(self, own: Path | None) -> None:
        self._own = own
        self._groups: dict[str, set[Path]] = defaultdict(set)  # by port
        if own is not None:
            for group in own.glob(f"{_PREFIX}*"):
                name = group.name.removeprefix(_PREFIX).rpartition("-")[0]
                self._groups[name].add(group)
            # "pids" is a controller that may be on while the daemon itself is in the group.
            with contextlib.suppress(OSError):
                (own / "cgroup.subtree_control").write_text("+pids")

    def open(self, name: str, uid: int, threads: int) -> int | None:
        """Make the group of a port's worker; return the fd by which a process enters it."""
        if self._own is None:
            return None
        group = self._own / f"{_PREFIX}{name}-{uid}"
        try:
            group.mkdir(exist_ok=True)
            self._groups[name].add(group)
            with contextlib.suppress(OSError):  # no such controller here
                (group / "pids.max").write_text(str(threads))
            return os.open(group / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def end(self, name: str, uid: int | None = None) -> None:
        """Kill all processes in a port's groups; a group is removed once it is empty.

        uid: only in the group of this worker, as its successor lives.
        """
        for group in list(self._groups.get(name, ())):
            if uid is not None and group.name != f"{_PREFIX}{name}-{uid}":
                continue
            with contextlib.suppress(OSError):
                (group / "cgroup.kill").write_text("1")  # Linux 5.14
            with contextlib.suppress(OSError):
                group.rmdir()
            if not group.exists():  # else it is not empty yet: the next end finds it
                self._groups[name].discard(group)
        if not self._groups.get(name):
            self._groups.pop(name, None)
