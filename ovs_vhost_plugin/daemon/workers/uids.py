# SPDX-License-Identifier: Apache-2.0
"""Which user each worker is: one that nobody else on the machine is or was.

A worker that was taken over may signal and trace whatever runs as its own user, and reach what an
earlier worker left behind. So a number is given once and not again, by all daemons of the machine:
the last one given is in a file of /run, locked while it is counted on. Nothing has to be freed, and
nothing a worker says counts. A restart of the machine, which ends all workers, empties /run.

268 million numbers last for years, at a worker a second. The range is used by nobody else
(systemd's UIDS-GIDS).
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import ovs.vlog

from ovs_vhost_plugin.common import trusted
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.common.trusted import DistrustError
from ovs_vhost_plugin.daemon.options import Options
from ovs_vhost_plugin.ipc.spec import WORKER_UIDS

vlog = ovs.vlog.Vlog("vhost_uids")

FIRST, LAST = WORKER_UIDS[0], WORKER_UIDS[-1]

MACHINE = Path("/run/ovs-vhost")
"""Shared by all daemons of the machine, whatever their run directories and network namespaces."""

_FILE = "last-uid"
_COUNT = len(WORKER_UIDS)
_STRIDES = 0x09E3779B, 0x05EBCA6B
"""Multiples of the first, 2^28 by the golden ratio, lie far from each other round the range; the
second is any other odd number."""


def following(last: int) -> int:
    """The uid after `last`, round the range."""
    return FIRST + (last - FIRST + 1) % _COUNT


def beginning(namespace: int, file: int) -> int:
    """The last uid given before the first one: by the inodes of our mount namespace and the file.

    Daemons in containers may each have a /run of their own and yet share the users: those begin
    far from each other, as the kernel numbers namespaces one after the other. The file counts for
    those that share a namespace and no file, and for a file that was made anew.
    """
    return FIRST + (namespace * _STRIDES[0] + file * _STRIDES[1]) % _COUNT


@dataclass(frozen=True, slots=True)
class Uids:
    """The file in which the last uid given is noted."""

    path: Path

    @classmethod
    def of_machine(cls, state: StateDir, machine: Path = MACHINE) -> "Uids":
        """The machine's file, else, where /run is not ours to write, our run directory's."""
        if os.geteuid() != 0:
            return cls(state.path / _FILE)  # workers stay what the daemon is
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
        """A uid that none has had; raises OSError. Waits only for another daemon's counting."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            uid = following(_read(fd))
            # One write of the same length each time: never is a part of a number there.
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
    """The uid and gid of a new worker, 0 for no change; raises OSError.

    A group of its own as well, with the same number.
    """
    if os.geteuid() != 0:
        return 0, 0
    if options.worker_user is not None:
        return options.worker_user.uid, options.worker_user.gid
    uid = uids.allocate()
    return uid, uid
