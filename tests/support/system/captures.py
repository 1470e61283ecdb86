# SPDX-License-Identifier: Apache-2.0
"""The command `ovs-vhost capture` as a process, and what tshark reads in its files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from support.checkout import TOP

from ovs_vhost_plugin.lab.process import wait_until


class CaptureProcess:
    """The command for the port `name` of `host`, writing to `path`."""

    def __init__(self, host, name, path, *words):
        self.host, self.name, self.path = host, name, path
        self.process = subprocess.Popen(
            [*command(host), name, "--write", str(path), *words],
            env=environment(host),
            stderr=subprocess.PIPE,
            text=True,
            # A script's background ignores it, and so would what is started there.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_records(self):
        """Return when the port's present worker records."""
        wait_records(self.host, self.name)

    def end(self, number=None):
        """Its exit status and words."""
        if number is not None:
            self.process.send_signal(number)
        _, words = self.process.communicate(timeout=60)
        return self.process.returncode, words

    def close(self):
        self.process.kill()
        self.process.communicate()


def command(host):
    target = f"{host.directory}/ovs-vhost.{host.daemon.pid}.ctl"
    return [sys.executable, "-m", "ovs_vhost_plugin", "capture", "--target", target]


def environment(host):
    return {**os.environ, **host.switch.env, "PYTHONPATH": str(TOP)}


def is_recording(pid):
    """Whether a worker has a capture's memory mapped."""
    return "ovs-vhost-capture" in Path(f"/proc/{pid}/maps").read_text()


def wait_records(host, name):
    """Return when the present worker of the port `name` records.

    It does so a moment after it has the memory, and before it answers what it is asked then.
    """
    wait_until(lambda: is_recording(host.worker_pid(name)), "the capture's memory")
    host.stats(name)


def captured_ports(host):
    return [one["port"] for one in _told(host)["captures"]]


def capture_socket(host):
    return _told(host)["socket"]


def _told(host):
    return json.loads(host.appctl("vhost/captures", "--format", "json"))


def tshark(path, *words):
    said = subprocess.run(
        ["tshark", "-r", str(path), *words], capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0 and "cut short" not in said.stderr, said.stderr
    return said.stdout


def fields(path, wanted, *names):
    """A line for each frame that `wanted` matches."""
    options = [word for name in names for word in ("-e", name)]
    lines = tshark(path, "-Y", wanted, "-T", "fields", *options).splitlines()
    return [line.split("\t") for line in lines]


def marks(path):
    return tshark(path, "-Y", "systemd_journal")
