# SPDX-License-Identifier: Apache-2.0
"""Local users and taken-over workers against the taps of VMs."""

import contextlib
import errno
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.attacks.tap_attacker import (
    BROADCAST,
    GUEST_MAC,
    NOBODY,
    TUNSETOWNER,
    attach,
    attach_as,
    racing,
    write,
)

from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def port(host: Host, request) -> Iterator[str]:
    """A port with a worker."""
    name = "vhu0"
    host.add_server_port(name)
    try:
        # The first worker on a machine waits for its kernels to be compiled.
        host.wait_status(name, "listening")
        host.wait_ofport(name)
        yield name
    finally:
        remove_port(host, name)


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
    return Path(f"/proc/{host.worker_pid(name)}").stat().st_uid


def test_nobody_attaches_to_a_vm_s_tap(host: Host, port: str) -> None:
    assert attach_as(host, NOBODY, port) == errno.EPERM


def test_a_worker_s_user_attaches_to_no_other_tap(host: Host, port: str) -> None:
    host.add_server_port("vhu1")
    try:
        host.wait_status("vhu1", "listening")
        assert attach_as(host, worker_uid(host, port), "vhu1") == errno.EPERM
    finally:
        remove_port(host, "vhu1")


def test_nobody_is_fast_enough_for_a_new_tap(host: Host) -> None:
    for _ in range(5):
        with racing(host, NOBODY, "vhu0") as attached:
            host.add_server_port("vhu0")
            try:
                host.wait_status("vhu0", "listening")
                assert not attached()
            finally:
                remove_port(host, "vhu0")


def give_away(host: Host, name: str, uid: int) -> None:
    """What whoever has a queue may do: a worker that was taken over, for its owner."""
    with host.namespace.entered():
        queue = attach(name)
    fcntl.ioctl(queue, TUNSETOWNER, uid)
    os.close(queue)


def test_a_tap_that_was_given_away_is_root_s_again_at_the_next_worker(host, port) -> None:
    give_away(host, port, NOBODY)
    assert attach_as(host, NOBODY, port) == 0

    host.switch.vsctl("set", "Interface", port, "external_ids:vhost-user-queues=3")

    wait_until(lambda: owner(host, port) == "root", "root to own the tap")
    assert attach_as(host, NOBODY, port) == errno.EPERM


def test_a_tap_that_was_given_away_is_root_s_again_at_adoption(host, port) -> None:
    give_away(host, port, NOBODY)
    index = tap(host, port)["ifindex"]
    uid = worker_uid(host, port)

    host.stop_daemon(kill=True)
    host.start_daemon()

    wait_until(lambda: owner(host, port) == "root", "root to own the tap")
    assert attach_as(host, NOBODY, port) == errno.EPERM
    # The worker had it for itself, and goes on.
    host.wait_status(port, "listening")
    assert (tap(host, port)["ifindex"], worker_uid(host, port)) == (index, uid)
    assert f"{port}: its tap did not belong to root" in host.log.read_text()


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


def test_who_attached_before_is_out_after_adoption(host: Host, port: str) -> None:
    give_away(host, port, NOBODY)
    with thief(host, port) as queue:
        assert send(queue, GUEST_MAC)

        host.stop_daemon(kill=True)
        host.start_daemon()

        wait_until(lambda: not send(queue, GUEST_MAC), "the thief to be cut off")
    host.wait_status(port, "listening")
    assert "tap-held" in host.log.read_text()


def test_what_a_worker_left_behind_gets_no_frame_of_the_next_worker(host, port) -> None:
    with thief(host, port) as queue:
        os.kill(host.worker_pid(port), signal.SIGKILL)
        wait_until(lambda: not send(queue, GUEST_MAC), "the thief to be cut off")
    host.wait_status(port, "listening")


def test_what_outlives_a_port_is_not_in_the_next_tenant_s_vlan(host: Host) -> None:
    evil = bytes.fromhex("5254000000ee")
    host.add_server_port("vhu0")
    host.wait_status("vhu0", "listening")
    host.wait_ofport("vhu0")
    try:
        with thief(host, "vhu0") as queue:
            remove_port(host, "vhu0")
            host.add_server_port("vhu0", tag=77)
            host.wait_status("vhu0", "listening")
            host.wait_ofport("vhu0")

            assert not send(queue, evil)
            # What is the port's own is in it, so that the other would have been.
            with thief(host, "vhu0") as own:
                wait_until(lambda: send(own, GUEST_MAC) and learned(host, GUEST_MAC), "VLAN 77")
            assert not learned(host, evil)
    finally:
        remove_port(host, "vhu0")


def learned(host: Host, mac: bytes) -> bool:
    return host.switch.fdb(BRIDGE).get(mac.hex(":"), ("", 0))[1] == 77
