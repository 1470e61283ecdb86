# SPDX-License-Identifier: Apache-2.0
"""Directories of the switch's and our own sockets, records and logs.

The bindings from PyPI point at /usr/local, where no distribution's Open vSwitch has its sockets;
distributions patch their copy. So a directory is taken from the environment, as by every program
of Open vSwitch, else from the bindings if it exists, else it is the distributions' place.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import ovs.dirs
import ovs.util

PROGRAM = "ovs-vhost"
"""Name of the daemon: pidfile, log file, control socket, `ovs-appctl -t`."""

SUN_PATH_MAX = 107
"""Longest path of a unix socket, bytes (unix(7): sun_path is 108 with its terminator)."""

_DEFAULT_RUNDIR = "/var/run/openvswitch"
_DEFAULT_LOGDIR = "/var/log/openvswitch"


def set_up() -> Path:
    """Set the bindings' directories and program name; return the run directory."""
    ovs.util.PROGRAM_NAME = PROGRAM
    ovs.dirs.RUNDIR = _choose("OVS_RUNDIR", ovs.dirs.RUNDIR, _DEFAULT_RUNDIR)
    ovs.dirs.LOGDIR = _choose("OVS_LOGDIR", ovs.dirs.LOGDIR, _DEFAULT_LOGDIR)
    return Path(ovs.dirs.RUNDIR)


def _choose(variable: str, bindings: str, default: str) -> str:
    chosen = os.environ.get(variable) or (bindings if Path(bindings).is_dir() else default)
    return os.path.abspath(chosen)  # noqa: PTH100 - keeps links; a daemon changes its directory


@dataclass(frozen=True, slots=True)
class StateDir:
    """`<rundir>/ovs-vhost`: the records by which the next daemon adopts workers."""

    path: Path

    @classmethod
    def create(cls, rundir: Path) -> "StateDir":
        """Make the directory if need be. Only root reads it: a control socket gives full power.

        ValueError when others may write there, or when it is too deep for a socket's path.
        """
        path = rundir / PROGRAM
        if len(os.fsencode(path / ("x" * 15 + ".ctl"))) > SUN_PATH_MAX:
            raise ValueError(f"{rundir} is too long a path for control sockets in it")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ValueError(f"{path} is not a directory of this user's own")
        path.chmod(0o700)
        made = cls(path)
        made.journals.mkdir(mode=0o700, exist_ok=True)
        return made

    def control(self, port: str) -> Path:
        """The worker's control socket."""
        return self.path / f"{port}.ctl"

    def tap(self, port: str) -> Path:
        """The record that the tap is ours."""
        return self.path / f"{port}.tap"

    def pid(self, port: str) -> Path:
        """The record of the worker's process."""
        return self.path / f"{port}.pid"

    def successor(self, port: str) -> Path:
        """The record of the process that is to be the next worker, while it takes the port over."""
        return self.path / f"{port}.next"

    def listener(self, port: str) -> Path:
        """The record of the socket made for the front-end in server mode."""
        return self.path / f"{port}.sock"

    def listeners(self) -> list[Path]:
        """All records of such sockets."""
        return list(self.path.glob("*.sock"))

    def journal(self, socket: str) -> Path:
        """The journal of the rings of the guest at that socket; it outlives worker and port.

        Not by the port's name: a guest may come back to a port of another name.
        """
        return self.journals / hashlib.blake2b(socket.encode(), digest_size=16).hexdigest()

    @property
    def migrations(self) -> Path:
        """The moves of guests that this host saw, which outlive the daemon that saw them."""
        return self.path / "migrations"

    @property
    def journals(self) -> Path:
        """The directory of the journals."""
        return self.path / "journals"

    def ports(self) -> set[str]:
        """Names of the ports that have a record."""
        suffixes = (".ctl", ".tap", ".pid", ".sock")
        return {p.stem for p in self.path.iterdir() if p.suffix in suffixes}

    def forget(self, port: str) -> None:
        """Remove the records of a port's worker; the tap's record goes with the tap."""
        for path in (self.control(port), self.pid(port), self.successor(port)):
            path.unlink(missing_ok=True)
