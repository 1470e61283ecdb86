# SPDX-License-Identifier: Apache-2.0
"""Runs each case in a process of its own that may crash or hang: both are failing examples.

Compiled code that leaves its memory raises SIGSEGV, which ends the process and would end the tests
with it. So the cases are made here, where they are also made smaller once one has failed, and a
child runs them: `python fuzz_victim.py FD MODULE` calls MODULE.run(case) for each case that comes
through the socket FD, and answers None or what went wrong. It loads the module once and runs the
cases in a fork, which is soon replaced when it dies.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

PATIENCE = 300.0
"""Seconds for one case, which takes milliseconds; the first one may compile."""


class Victim:
    """A child that runs cases of `module`."""

    def __init__(self, module: str, *, jit: bool = True) -> None:
        self._module = module
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "NUMBA_DISABLE_JIT": str(int(not jit)),
        }
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def run(self, case: Any) -> None:
        """AssertionError if the case went wrong, crashed or never came to an end."""
        connection = self._connected()
        connection.send(case)
        if not connection.poll(PATIENCE):
            self.close()
            raise AssertionError(f"no end in {PATIENCE:g} s")
        answer = connection.recv()
        assert answer is None, answer

    def close(self) -> None:
        """End the child and its fork."""
        if self._connection is not None and self._child is not None:
            self._connection.close()
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._child = self._connection = None

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection, theirs = Pipe()
            command = [sys.executable, __file__, str(theirs.fileno()), self._module]
            self._child = subprocess.Popen(
                command,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            theirs.close()
        return self._connection


def _serve(connection: Connection, run: Callable[[Any], None]) -> None:
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            run(case)
            answer = None
        except Exception:
            answer = traceback.format_exc()
        connection.send(answer)


def _main(connection: Connection, run: Callable[[Any], None]) -> None:
    """Serve in a fork, again and again until the tests have gone."""
    gc.freeze()  # what is loaded stays: a case that collects does not look at it
    while True:
        pid = os.fork()
        if pid == 0:
            _serve(connection, run)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return
        connection.send(f"the process died: {signal.Signals(-status).name}")


if __name__ == "__main__":
    faulthandler.enable()
    _main(Connection(int(sys.argv[1])), importlib.import_module(sys.argv[2]).run)
