# SPDX-License-Identifier: Apache-2.0
"""Processes the lab starts: each is watched, ended by its pid and waited for.

Every process gets a session of its own, so that Ctrl-C reaches only the program that owns the
lab, which then takes everything down in order.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

from ovs_vhost_plugin.lab.interruption import HEARD_WITHIN, hear

T = TypeVar("T")

_POLL_SECONDS = 0.01

PATIENCE = 60.0
"""Seconds after which an awaited event counts as missing. Only a failure takes so long."""


class LabError(Exception):
    """Something the lab needs did not work; the message is for people."""


def wait_until(
    condition: Callable[[], T | None],
    what: str,
    seconds: float = PATIENCE,
    poll: float = _POLL_SECONDS,
) -> T:
    """The first true value of `condition`, asked every `poll` seconds.

    Raises LabError naming `what` if there is none within `seconds`, and what `hear` raises.
    """
    deadline = time.monotonic() + seconds
    while True:
        hear()
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not within {seconds:g} s")
        time.sleep(poll)


def pause(seconds: float) -> None:
    """Let time pass.  Raises what `hear` raises."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        hear()
        time.sleep(min(left, HEARD_WITHIN))


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: str | None = None,
    check: bool = True,
    seconds: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its output as text; it is over, too, when this raises.

    Raises LabError with the command's output when it fails (`check`) or takes too long, and what
    `hear` raises.
    """
    hear()
    try:
        running = subprocess.Popen(
            argv,
            cwd=directory,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]}: not installed") from error
    try:
        output, errors = _communicate(running, stdin, time.monotonic() + seconds)
    except BaseException as error:
        with running:  # which closes its pipes, and waits
            running.kill()
        if isinstance(error, TimeoutError):
            raise LabError(f"{' '.join(argv)}: no end within {seconds:g} s") from error
        raise
    hear()  # first: Ctrl-C at a terminal ends the command too
    if check and running.returncode:
        words = (errors or output).strip()
        raise LabError(f"{' '.join(argv)}: exit status {running.returncode}: {words}")
    return subprocess.CompletedProcess(argv, running.returncode, output, errors)


def _communicate(
    running: subprocess.Popen[str], stdin: str | None, deadline: float
) -> tuple[str, str]:
    """Collect what a command prints until it ends.  Raises TimeoutError, and what `hear` raises."""
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return running.communicate(stdin, min(left, HEARD_WITHIN))
        stdin = None  # it is being sent
        hear()
    raise TimeoutError


def readable(connection: socket.socket | IO[bytes], seconds: float) -> bool:
    """Whether something is to be read within `seconds`, or the peer is gone.

    Raises what `hear` raises.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    deadline = time.monotonic() + seconds
    while True:
        hear()
        left = max(0.0, deadline - time.monotonic())
        if poll.poll(1000 * min(left, HEARD_WITHIN)):
            return True
        if not left:
            return False


class Process:
    """A program in the background; its output goes to a file, or to a `stdout` of its own."""

    def __init__(
        self,
        argv: Sequence[str],
        output: Path,
        *,
        env: Mapping[str, str] | None = None,
        fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> None:
        self.argv = list(argv)
        self.output = output
        with output.open("ab") as sink:
            try:
                self._popen = subprocess.Popen(
                    self.argv,
                    stdin=stdin,
                    stdout=sink if stdout is None else stdout,
                    stderr=sink,
                    env=None if env is None else {**os.environ, **env},
                    pass_fds=tuple(fds),
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise LabError(f"{argv[0]}: not installed") from error

    @property
    def pid(self) -> int:
        """The process id of the program itself (`ip netns exec` execs it)."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status once it has ended; negative for a signal."""
        return self._popen.poll()

    def tail(self, lines: int = 8) -> str:
        """The last lines it printed."""
        if not self.output.exists():
            return ""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def ready(
        self,
        condition: Callable[[], T | None],
        what: str,
        seconds: float = PATIENCE,
        poll: float = _POLL_SECONDS,
    ) -> T:
        """Like `wait_until`, but fails at once, with the program's last lines, when it ends."""

        def alive_and_ready() -> T | None:
            if not self.running:
                raise LabError(f"{what}: the program ended with status {self.returncode}")
            return condition()

        try:
            return wait_until(alive_and_ready, what, seconds, poll)
        except LabError as error:
            raise LabError(f"{error}\n{self.tail()}".rstrip()) from error

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        self._popen.send_signal(number)

    def stop(self, seconds: float = 20.0) -> int:
        """End it by SIGTERM, then SIGKILL if it does not end.  Returns the exit status."""
        self._popen.terminate()
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it with SIGKILL.  Returns the exit status."""
        self._popen.send_signal(signal.SIGKILL)
        return self._popen.wait()

    def wait(self, seconds: float) -> int:
        """Await its own end.  Raises LabError if it still runs after `seconds`."""
        wait_until(lambda: not self.running, f"{self.argv[0]}: its end", seconds)
        return self._popen.wait()
