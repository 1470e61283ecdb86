# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the nursery (`worker/birth/forkserver.py`), the process that forks workers.

It is a program of its own, with an environment of a few named variables: so neither it nor a
worker has anything in its memory that the daemon knew, and none knows where the daemon's memory is.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.ipc.channel import Channel

_PROGRAM = "ovs_vhost_plugin.worker.birth.forkserver"

_KEPT_VARIABLES = ("NUMBA_", "OPENBLAS_", "OVS_VHOST_")
"""Beginnings of names of the variables that the nursery is given."""


class Nursery:
    """The program, and the channel to it: see `worker/birth/forkserver.py` for what is said."""

    def __init__(self, worker_module: str, state: StateDir, *, quiet: bool) -> None:
        """Start it. `worker_module` has `warm()` and `run(spec, inheritance) -> int`.

        quiet: nobody reads what it prints.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._program = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-s", "-m", _PROGRAM),
                    *(str(theirs.fileno()), worker_module, os.fspath(state.path.absolute())),
                ],
                env=_environment(),
                cwd="/",  # numba obeys a .numba_config.yaml in the directory that it is loaded in
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=subprocess.DEVNULL if quiet else None,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.channel = Channel(ours, max_fds=0)
        self.pid = self._program.pid

    def kill(self) -> None:
        """End it at once."""
        self.channel.close()
        self._program.kill()
        self._program.wait()

    def leave(self) -> None:
        """Hang up, at which it ends by itself."""
        self.channel.close()

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        return self._program.wait()


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name.startswith(_KEPT_VARIABLES)}
    # numpy's linear algebra, unused here, would start threads as soon as it is loaded.
    kept["OPENBLAS_NUM_THREADS"] = "1"
    kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if Path(path).is_absolute())
    return kept
