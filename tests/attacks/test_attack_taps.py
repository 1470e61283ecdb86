# SPDX-License-Identifier: Apache-2.0
"""Local users and taken-over workers against the taps of VMs."""

import contextlib
import errno
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tap_attacker import (
    BROADCAST,
    GUEST_MAC,
    NOBODY,
    TUNSETOWNER,
    attach,
    attach_as,
    racing,
    write,
)

from ovs_vhost_plugin.lab import packages
from ovs_vhost_plugin.lab.host import BRIDGE, Host
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def tap_host(require) -> Iterator[Host]:
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with ExitStack() as stack:
        # Not pytest's directory: a socket's path has at most 107 bytes.
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        yield stack.enter_context(Host("taps", Path(top, "h")))


@pytest.fixture
def port(tap_host: Host, request) -> Iterator[str]:
    """A port with a worker."""
    name = "vhu0"
    tap_host.add_server_port(name)
    try:
        tap_host.wait_status(name, "listening")
        tap_host.wait_ofport(name)
        yield name
    finally:
        remove_port(tap_host, name)


def remove_port(host: Host, name: str) -> None:
    host.switch.vsctl("--if-exists", "del-port", name)
    wait_until(lambda: not tap(host, name), f"the end of {name}'s tap")


def tap(host: Host, name: str) -> dict:
    """What `ip` shows of a tap; nothing when there is none."""
    shown = host.namespace.run("ip", "-d", "-json", "link", "show", "dev", name, check=False)
    return json.loads(shown)[0] if shown else {}


def owner(host: Host, name: str) -> str | int | None:
    return tap(host, name)["linkinfo"]["info_data"].get("user")


def worker_uid(host: Host, name: str) -> int:
    pid = int(Path(host.directory, "ovs-vhost", f"{name}.pid").read_text().split()[0])
    return Path(f"/proc/{pid}").stat().st_uid


def test_nobody_attaches_to_a_vm_s_tap(tap_host: Host, port: str) -> None:
    assert attach_as(tap_host, NOBODY, port) == errno.EPERM


def test_a_worker_s_user_attaches_to_no_other_tap(tap_host: Host, port: str) -> None:
    tap_host.add_server_port("vhu1")
    try:
        tap_host.wait_status("vhu1", "listening")
        assert attach_as(tap_host, worker_uid(tap_host, port), "vhu1") == errno.EPERM
    finally:
        remove_port(tap_host, "vhu1")


def test_nobody_is_fast_enough_for_a_new_tap(tap_host: Host) -> None:
    for _ in range(5):
        with racing(tap_host, NOBODY, "vhu0") as attached:
            tap_host.add_server_port("vhu0")
            try:
                tap_host.wait_status("vhu0", "listening")
                assert not attached()
            finally:
                remove_port(tap_host, "vhu0")


def give_away(host: Host, name: str, uid: int) -> None:
    """What whoever has a queue may do: a worker that was taken over, for its owner."""
    with host.namespace.entered():
        queue = attach(name)
    fcntl.ioctl(queue, TUNSETOWNER, uid)
    os.close(queue)


def test_a_tap_that_was_given_away_is_root_s_again_at_the_next_worker(tap_host, port) -> None:
    give_away(tap_host, port, NOBODY)
    assert attach_as(tap_host, NOBODY, port) == 0

    tap_host.switch.vsctl("set", "Interface", port, "external_ids:vhost-user-queues=3")

    wait_until(lambda: owner(tap_host, port) == "root", "root to own the tap")
    assert attach_as(tap_host, NOBODY, port) == errno.EPERM


def test_a_tap_that_was_given_away_is_root_s_again_at_adoption(tap_host, port) -> None:
    give_away(tap_host, port, NOBODY)
    index = tap(tap_host, port)["ifindex"]
    uid = worker_uid(tap_host, port)

    tap_host.stop_daemon(kill=True)
    tap_host.start_daemon()

    wait_until(lambda: owner(tap_host, port) == "root", "root to own the tap")
    assert attach_as(tap_host, NOBODY, port) == errno.EPERM
    # The worker had it for itself, and goes on.
    tap_host.wait_status(port, "listening")
    assert (tap(tap_host, port)["ifindex"], worker_uid(tap_host, port)) == (index, uid)
    assert f"{port}: its tap did not belong to root" in tap_host.log.read_text()


@contextlib.contextmanager
def thief(host: Host, name: str) -> Iterator[int]:
    """A queue that somebody else has: a local user of before, or what a worker forked."""
    with host.namespace.entered():
        queue = attach(name)
    try:
        yield queue
    finally:
        os.close(queue)


def send(queue: int, source: bytes) -> bool:
    """Whether the tap takes a frame from this queue."""
    try:
        write(queue, BROADCAST + source + b"\x88\xb5")
    except OSError:  # EBADFD: the tap of this queue has gone
        return False
    return True


def test_who_attached_before_is_out_after_adoption(tap_host: Host, port: str) -> None:
    give_away(tap_host, port, NOBODY)
    with thief(tap_host, port) as queue:
        assert send(queue, GUEST_MAC)

        tap_host.stop_daemon(kill=True)
        tap_host.start_daemon()

        wait_until(lambda: not send(queue, GUEST_MAC), "the thief to be cut off")
    tap_host.wait_status(port, "listening")
    assert "tap-held" in tap_host.log.read_text()


def test_what_a_worker_left_behind_gets_no_frame_of_the_next_worker(tap_host, port) -> None:
    pid = Path(tap_host.directory, "ovs-vhost", f"{port}.pid").read_text().split()[0]
    with thief(tap_host, port) as queue:
        os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not send(queue, GUEST_MAC), "the thief to be cut off")
    tap_host.wait_status(port, "listening")


def test_what_outlives_a_port_is_not_in_the_next_tenant_s_vlan(tap_host: Host) -> None:
    evil = bytes.fromhex("5254000000ee")
    tap_host.add_server_port("vhu0")
    tap_host.wait_status("vhu0", "listening")
    tap_host.wait_ofport("vhu0")
    try:
        with thief(tap_host, "vhu0") as queue:
            remove_port(tap_host, "vhu0")
            tap_host.add_server_port("vhu0", tag=77)
            tap_host.wait_status("vhu0", "listening")
            tap_host.wait_ofport("vhu0")

            assert not send(queue, evil)
            # What is the port's own is in it, so that the other would have been.
            with thief(tap_host, "vhu0") as own:
                wait_until(lambda: send(own, GUEST_MAC) and learned(tap_host, GUEST_MAC), "VLAN 77")
            assert not learned(tap_host, evil)
    finally:
        remove_port(tap_host, "vhu0")


def learned(host: Host, mac: bytes) -> bool:
    return host.switch.fdb(BRIDGE).get(mac.hex(":"), ("", 0))[1] == 77
