# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the fork server (`worker/birth/forkserver.py`), which forks workers.

The fork server is a program of its own, with an environment of a few named variables. So neither
it nor a worker has any of the daemon's secrets in its memory, nor knows where the daemon's memory
is.
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
"""Prefixes of the environment variables that are passed to the fork server."""


class ForkServerLink:
    """The program, and the channel to it; the messages are in `ipc/births.py`."""

    def __init__(self, worker_module: str, state: StateDir, *, quiet: bool) -> None:
        """Start the program.

        `worker_module` has `warm()`, `choose_tap_io(wish)` and `run(spec, inheritance) -> int`.

        quiet: nobody reads its output.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._program = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-s", "-m", _PROGRAM),
                    *(str(theirs.fileno()), worker_module, os.fspath(state.path.absolute())),
                ],
                env=_environment(),
                cwd="/",  # numba obeys a .numba_config.yaml in the current directory
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=subprocess.DEVNULL if quiet else None,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.channel = Channel(ours, max_fds=0)
        self.pid = self._program.pid

    def kill(self) -> None:
        """Kill the program."""
        self.channel.close()
        self._program.kill()
        self._program.wait()

    def leave(self) -> None:
        """Close the channel, so that the program ends by itself."""
        self.channel.close()

    def wait(self) -> int:
        """Wait for the program's end; return its exit status."""
        return self._program.wait()


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name.startswith(_KEPT_VARIABLES)}
    # numpy's linear algebra, unused here, would start threads on import.
    kept["OPENBLAS_NUM_THREADS"] = "1"
    kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if Path(path).is_absolute())
    return kept
