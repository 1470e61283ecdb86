# SPDX-License-Identifier: Apache-2.0
"""Processes the lab starts: each is watched, ended by its pid and waited for.

Every process gets a session of its own, so that Ctrl-C reaches only the program that owns the
lab, which then takes everything down in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

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

    Raises LabError naming `what` if there is none within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not within {seconds:g} s")
        time.sleep(poll)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
    seconds: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with its output as text.

    Raises LabError with the command's output when it fails (`check`) or takes too long.
    """
    try:
        done = subprocess.run(
            argv,
            env=None if env is None else {**os.environ, **env},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]}: not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: no end within {seconds:g} s") from error
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {words}")
    return done


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
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.argv[0]}: still running after {seconds:g} s") from error
