# SPDX-License-Identifier: Apache-2.0
"""The switch hears a port's tap, however taps and rows came and went: MACs are learned from it."""

import contextlib
import fcntl
import itertools
import os
import signal
import struct
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until

pytestmark = pytest.mark.integration

_TUNSETIFF = 0x400454CA
_TAP_MULTI_QUEUE_NO_PI = 0x0002 | 0x0100 | 0x1000 | 0x4000  # and the vnet header
_VNET_HEADER = bytes(10)
_NUMBERS = itertools.count(1)


def from_the_guest(host, name: str) -> str:
    """Send a frame into the bridge by one more queue of the tap; its source's MAC."""
    source = bytes([2, 0, 0, 0, 1, next(_NUMBERS)])
    request = struct.pack("=16sH22x", name.encode(), _TAP_MULTI_QUEUE_NO_PI)
    with host.namespace.entered():
        queue = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(queue, _TUNSETIFF, request)
            with contextlib.suppress(OSError):  # EIO: whoever makes a tap sets it up after that
                os.write(queue, _VNET_HEADER + b"\xff" * 6 + source + b"\x88\xb5" + bytes(46))
        finally:
            os.close(queue)
    return source.hex(":")


def assert_heard(host, name: str = "vhu0") -> None:
    host.wait_status(name, "connecting")
    number = host.wait_ofport(name)

    def learned() -> bool:
        # Frames to a port that is just being opened may be lost: any of them will do.
        mac = from_the_guest(host, name)
        return host.switch.fdb(BRIDGE).get(mac) == (str(number), 0)

    wait_until(learned, "the switch learns from what comes from the tap", poll=0.1)


def test_after_a_cleanup_the_next_daemon_s_taps_are_heard(host) -> None:
    host.add_client_port("vhu0")
    assert_heard(host)
    number = host.wait_ofport("vhu0")

    host.appctl("exit", "--cleanup")
    host.daemon.wait(PATIENCE)
    host.start_daemon()

    assert_heard(host)
    assert host.wait_ofport("vhu0") == number


def test_a_tap_that_somebody_removed_is_made_again_and_heard(host) -> None:
    host.add_client_port("vhu0")
    assert_heard(host)
    before = host.link("vhu0").split()[0]

    host.namespace.run("ip", "link", "del", "vhu0")
    pid = host.worker_pid("vhu0")
    os.kill(pid, 9)  # a fake worker does not notice; the daemon looks again when it ends

    wait_until(lambda: host.link("vhu0").split()[:1] not in ([], [before]), "another tap")
    assert_heard(host)


def test_ports_deleted_and_added_at_once_are_heard(host) -> None:
    for _ in range(5):
        host.add_client_port("vhu0")
        host.delete_port("vhu0")
    host.add_client_port("vhu0")
    assert_heard(host)


def test_a_tap_stays_while_somebody_listens_to_it(host) -> None:
    host.add_client_port("vhu0")
    assert_heard(host)
    before = host.link("vhu0").split()[0]
    pid = host.worker_pid("vhu0")

    os.kill(host.daemon.pid, signal.SIGSTOP)
    host.delete_port("vhu0")
    # As if the switch had opened it again already, for a row that the daemon will see next.
    host.namespace.run("ip", "link", "set", "vhu0", "promisc", "on")
    os.kill(host.daemon.pid, signal.SIGCONT)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker's end")
    host.add_client_port("vhu0")

    assert_heard(host)
    assert host.link("vhu0").split()[0] == before


def test_a_new_tap_that_the_switch_has_set_down_is_up_again(host) -> None:
    """It writes back the flags that it read when it opened the tap: here it only seems so."""
    switch = host.switch.vswitchd.pid
    os.kill(switch, signal.SIGSTOP)
    try:
        path = f"options:vhost-server-path={host.directory}/vhu0.sock"
        added = ("add-port", BRIDGE, "vhu0", "--", "set", "Interface", "vhu0", path)
        host.switch.vsctl("--no-wait", *added)
        host.wait_status("vhu0", "connecting")
        host.namespace.run("ip", "link", "set", "vhu0", "down")
    finally:
        os.kill(switch, signal.SIGCONT)
    host.wait_ofport("vhu0")
    wait_until(lambda: ",UP" in host.link("vhu0"), "the tap to be up")
