# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost try` at a terminal, as a person uses it, and nothing of it is left."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.process import PATIENCE

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

PROMPT = "vm# "
COMPILED = 300.0  # seconds; after a change of the kernels a first port has to await them


class Terminal:
    """A program at a terminal of its own; `text` is all that the terminal has shown."""

    def __init__(self, *words: str) -> None:
        self.fd, end = pty.openpty()
        self.program = subprocess.Popen(
            # The terminal is the program's own, so that it hears when that closes.
            ["setsid", "--ctty", sys.executable, "-m", "ovs_vhost_plugin", *words],
            stdin=end,
            stdout=end,
            stderr=end,
        )
        os.close(end)
        self.text = ""

    def type(self, words: str) -> None:
        os.write(self.fd, words.encode())

    def wait(self, pattern: str) -> re.Match[str]:
        """The next match; what was shown before it is passed over."""
        unread, deadline = "", time.monotonic() + COMPILED
        while not (match := re.search(pattern, unread)):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.fd], [], [], max(0, left))
            assert ready, f"{pattern!r} has not come; the terminal shows: {self.text[-2000:]}"
            with contextlib.suppress(OSError):
                unread += os.read(self.fd, 1).decode(errors="replace")
                self.text += unread[-1:]
                continue
            pytest.fail(f"the program ended before {pattern!r}: {self.text[-2000:]}")
        return match

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal("try")
    yield made
    made.program.terminate()
    made.program.wait(PATIENCE)
    made.close()


def left(pid: int) -> list[Path]:
    mark = f"{namespace.PREFIX}-{pid}-*"
    return [*Path("/run/netns").glob(mark), *Path("/tmp").glob(mark)]


def test_a_person_looks_around_and_leaves(terminal: Terminal) -> None:
    terminal.wait(PROMPT)
    terminal.type("ping -c 1 10.0.0.1\n")
    terminal.wait("1 packets received")
    _, _, shown = terminal.text.partition("in another terminal, as root:")
    commands = re.findall(r"^  (\S.*?)\r$", shown, re.MULTILINE)
    told = process.run(["sh", "-ec", "\n".join(commands)]).stdout
    assert "Port vhu0" in told and "vhost-user-status=running" in told
    assert re.search(r"^ +\d+ +0 +52:54:00:00:00:02 ", told, re.MULTILINE)
    assert re.search(r"rx_packets +[1-9]", told)
    terminal.type("exit\n")
    assert terminal.program.wait(PATIENCE) == 0
    assert left(terminal.program.pid) == []


def test_a_terminal_that_is_closed_ends_it(terminal: Terminal) -> None:
    terminal.wait("ovs-vswitchd --detach")
    assert left(terminal.program.pid)
    terminal.close()
    assert terminal.program.wait(PATIENCE) != 0
    assert left(terminal.program.pid) == []


def test_ctrl_c_ends_it_before_the_vm_runs(terminal: Terminal) -> None:
    terminal.wait("ovs-vswitchd --detach")
    terminal.type("\x03")
    terminal.wait("interrupted; all of it is taken down")
    assert terminal.program.wait(PATIENCE) == 130
    assert left(terminal.program.pid) == []


def test_sigterm_ends_the_vm_too(terminal: Terminal) -> None:
    terminal.wait("-serial mon:stdio")
    terminal.program.send_signal(signal.SIGTERM)
    terminal.wait("interrupted; all of it is taken down")
    assert terminal.program.wait(PATIENCE) == 130
    assert left(terminal.program.pid) == []
