# SPDX-License-Identifier: Apache-2.0
"""The workers' user ids: each worker runs as a user that nobody else is or was.

A worker that was taken over may signal and trace all processes of its user, and reach the remains
of earlier workers of that user. So all daemons of the machine together allocate a uid only once:
the last uid is in a file of /run, locked while it is counted up. Nothing has to be freed, and no
report of a worker counts. A restart of the machine, which ends all workers, empties /run.

268 million uids last for years, at a worker a second. Nobody else uses the range (systemd's
UIDS-GIDS).
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.common import trusted
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.common.trusted import DistrustError
from ovs_vhost_plugin.daemon.options import Options
from ovs_vhost_plugin.ipc.spec import WORKER_UIDS

vlog = Vlog("vhost_uids")

FIRST, LAST = WORKER_UIDS[0], WORKER_UIDS[-1]

MACHINE = Path("/run/ovs-vhost")
"""The directory that all daemons of the machine share, in all network namespaces."""

_FILE = "last-uid"
_COUNT = len(WORKER_UIDS)
_STRIDES = 0x09E3779B, 0x05EBCA6B
"""Multiples of the first, 2^28 by the golden ratio, lie far apart in the range.

The second is any other odd number."""


def following(last: int) -> int:
    """The uid after `last`, which wraps around in the range."""
    return FIRST + (last - FIRST + 1) % _COUNT


def beginning(namespace: int, file: int) -> int:
    """The uid before the first one, from the inodes of our mount namespace and the file.

    Daemons in containers may have separate /run directories and yet share users. They begin far
    apart, as the kernel numbers namespaces one after the other. The file's inode counts for daemons
    that share a namespace but no file, and for a file that was made anew.
    """
    return FIRST + (namespace * _STRIDES[0] + file * _STRIDES[1]) % _COUNT


@dataclass(frozen=True, slots=True)
class Uids:
    """The file with the last uid that was allocated."""

    path: Path

    @classmethod
    def of_machine(cls, state: StateDir, machine: Path = MACHINE) -> "Uids":
        """The machine's file; if /run is not writable, the file of our run directory."""
        if os.geteuid() != 0:
            return cls(state.path / _FILE)  # workers keep the daemon's user
        try:
            machine.mkdir(mode=0o755, exist_ok=True)
            trusted.check_directory(machine)
        except (DistrustError, OSError) as error:
            vlog.warn(
                f"uids-not-shared: {error}; daemons of this machine with other run directories "
                "may give the same user to their workers"
            )
            return cls(state.path / _FILE)
        return cls(machine / _FILE)

    def allocate(self) -> int:
        """Allocate a new uid. Waits only for another daemon's counting. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            uid = following(_read(fd))
            # One write, always of the same length: the file never has a part of a number.
            os.pwrite(fd, b"%010d\n" % uid, 0)
        finally:
            os.close(fd)
        return uid


def _read(fd: int) -> int:
    with contextlib.suppress(ValueError):
        last = int(os.pread(fd, 11, 0))
        if last in WORKER_UIDS:
            return last
    return beginning(Path("/proc/self/ns/mnt").stat().st_ino, os.fstat(fd).st_ino)


def worker_ids(options: Options, uids: Uids) -> tuple[int, int]:
    """The uid and gid of a new worker, 0 for no change. Raises OSError.

    The gid has the same number, so a worker has a group of its own as well.
    """
    if os.geteuid() != 0:
        return 0, 0
    if options.worker_user is not None:
        return options.worker_user.uid, options.worker_user.gid
    uid = uids.allocate()
    return uid, uid
