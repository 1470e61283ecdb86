# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost top` in a terminal beside a real switch, worker and guest."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading

import pytest
from support.checkout import TOP
from support.system.soft_ports import frame_of

from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")
LEAVES_SCREEN = b"\x1b[?1049l"


class Terminal:
    """A terminal of 80 columns with the command in it."""

    def __init__(self, host, *words):
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.seen = b""
        self.process = subprocess.Popen(
            [*command(host), "--interval", "0.2", *words],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={**environment(host), "TERM": "xterm-256color"},
            # A script's background ignores it, and so would what is started there.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def press(self, keys):
        os.write(self.ours, keys)

    def read(self):
        """Take what has come."""
        while select.select([self.ours], [], [], 0.05)[0]:
            self.seen += os.read(self.ours, 65536)
        return self.seen

    def wait(self, pattern):
        """Return when a line that comes from now on matches."""
        self.read()
        start = len(self.seen)

        def found():
            text = _CONTROL.sub(b"\n", self.read()[start:]).decode(errors="replace")
            return re.search(pattern, re.sub(r"\n+", "", text))

        return wait_until(found, f"{pattern} on the screen")

    def end(self):
        """The exit status; the terminal is as it was, and shows what was before."""
        wait_until(lambda: self.read() is None or self.process.poll() is not None, "its end")
        assert termios.tcgetattr(self.theirs) == self.before
        assert LEAVES_SCREEN in self.read()
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


def command(host):
    target = f"{host.directory}/ovs-vhost.{host.daemon.pid}.ctl"
    return [sys.executable, "-m", "ovs_vhost_plugin", "top", "--target", target]


def environment(host):
    return {**os.environ, **host.switch.env, "PYTHONPATH": str(TOP)}


@contextlib.contextmanager
def traffic(port):
    """A guest that receives frames all the time."""
    guest = port.guest(Config(size=64))
    over = threading.Event()

    def send():
        while not over.wait(0.002):
            port.inject(frame_of(200))
            guest.receive_all(0)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_rates_rise_and_keys_are_followed_and_the_terminal_is_restored(port):
    with contextlib.closing(Terminal(port.host)) as terminal:
        terminal.wait(rf"{port.name} +listening")
        with traffic(port):
            # Packets and bits received, none sent, no drops.
            terminal.wait(rf"{port.name} +running +[1-9][\d.]* +[\d.]+k +0 +0 +0 +\d+ ")
            terminal.press(b"s")
            terminal.wait("by packets")
            terminal.press(b"/zzz\r")
            terminal.wait("0 with zzz")
            terminal.press(b"\x1b")
            terminal.wait(rf"{port.name} +running")
            terminal.press(b"\r")
            terminal.wait(rf"{port.name} on br0: running.*rx_packets +[1-9]")
        terminal.press(b"q")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_leaves_the_terminal_as_it_was(port, number, status):
    with contextlib.closing(Terminal(port.host)) as terminal:
        terminal.wait(port.name)
        terminal.process.send_signal(number)
        assert terminal.end() == status


def test_once_for_programs(port):
    with traffic(port):
        words = [*command(port.host), "--once", "--interval", "0.5", "--format", "json", port.name]
        done = subprocess.run(
            words, env=environment(port.host), capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["ports"]
    assert told["status"] == "running" and told["rx_packets_per_second"] > 0
    assert told["rx_bits_per_second"] == pytest.approx(1600 * told["rx_packets_per_second"])
    assert told["rx_ring_percent"] is not None


def test_without_a_daemon_it_says_what_to_do(soft_host, tmp_path):
    words = [*command(soft_host)[:-1], str(tmp_path / "nobody.ctl")]
    done = subprocess.run(words, env=environment(soft_host), capture_output=True, text=True)
    assert done.returncode == 1 and "systemctl start ovs-vhost" in done.stderr
