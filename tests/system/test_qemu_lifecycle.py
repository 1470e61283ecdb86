# SPDX-License-Identifier: Apache-2.0
"""What may go away and come back under a running guest, and what a neighbour may do to it."""

import json
import os
import signal
import socket
import struct
import time

import pytest
from support.system.qemu_life import alive, echoed, left, resumed, successor, unanswered
from support.system.qemu_site import MIB, PORT, Site
from support.system.soft_ports import carrier_changes

from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until
from ovs_vhost_plugin.vhost import spec

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

NEIGHBOUR = "vhu1"
NEIGHBOUR_MAC = bytes.fromhex("525400000077")
FRAME = bytes.fromhex("ffffffffffff") + NEIGHBOUR_MAC + b"\x88\xb5" + bytes(range(46))


@pytest.fixture(scope="module")
def site(qemu_programs):
    with Site() as made:
        yield made


@pytest.fixture(scope="module")
def guest(site):
    with site.qemu(site.host.add_client_port(PORT)) as running:
        site.host.wait_status(PORT, "running")
        yield running


def test_the_guest_reboots(site, guest):
    # QEMU was told to end instead (-no-reboot), for guests that panic.
    guest.qmp.command("set-action", reboot="reset")
    guest.qmp.command("system_reset")
    guest.console.wait_booted()
    site.host.wait_status(PORT, "running")
    site.ping(1472)
    site.tcp(guest, MIB)


def test_a_killed_worker_is_replaced_and_traffic_resumes(site, guest):
    with echoed(site, guest) as flow:
        pid = site.worker()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: successor(site, pid), "another worker")
        resumed(flow)
    assert faults(site)["worker-sigkill"] == 1
    site.host.wait_status(PORT, "running")
    assert "error" not in site.host.status(PORT)
    site.tcp(guest, MIB)


def faults(site):
    return json.loads(site.host.appctl("vhost/show", "--format", "json"))["faults"]


def test_packets_flow_while_the_daemon_is_dead_and_the_next_one_adopts(site, guest):
    pid = site.worker()
    with echoed(site, guest) as flow:
        site.host.stop_daemon(kill=True)
        keys = site.host.status(PORT)  # the last word of the dead one
        resumed(flow, 100)
        site.host.start_daemon()
        wait_until(
            lambda: site.host.appctl("vhost/stats", PORT, check=False), "the worker's answer"
        )
        assert site.stats()["status"] == "running"
        resumed(flow, 100)
        assert unanswered(flow) == []
    assert site.worker() == pid
    assert site.host.status(PORT) == keys


def test_a_daemon_that_finds_the_worker_dead_starts_another(site, guest):
    with echoed(site, guest) as flow:
        site.host.stop_daemon(kill=True)
        os.kill(site.worker(), signal.SIGKILL)
        site.host.start_daemon()
        resumed(flow)
    site.tcp(guest, MIB)


def test_the_worker_is_replaced_under_traffic_and_nobody_notices(site, guest):
    changes = "cat /sys/class/net/eth0/carrier_changes"
    before = guest.console.run(changes), carrier_changes(site.host, PORT), faults(site)
    pids = [site.worker()]
    with echoed(site, guest, rate=1000) as flow:
        for _ in range(3):
            answer = site.host.appctl("vhost/upgrade", PORT, "--format", "json")
            assert json.loads(answer)["ports"][PORT].startswith("upgraded"), answer
            pids.append(site.worker())
            resumed(flow, 200)
        assert unanswered(flow) == []
    assert len(set(pids)) == 4
    after = guest.console.run(changes), carrier_changes(site.host, PORT), faults(site)
    assert after == before, "the link does not drop, and nothing is a fault"
    assert site.host.status(PORT)["status"] == "running"
    site.ping(1472)
    site.tcp(guest, MIB)


def test_the_switch_restarts_under_traffic(site, guest):
    pid = site.worker()
    with echoed(site, guest) as flow:
        site.host.switch.restart_vswitchd(kill=True)
        resumed(flow)
        site.host.switch.restart_vswitchd()
        resumed(flow)
    assert site.host.wait_ofport(PORT) > 0
    assert site.worker() == pid


def test_the_database_restarts_under_traffic(site, guest):
    pid = site.worker()
    with echoed(site, guest) as flow:
        site.host.switch.restart_server(kill=True)
        resumed(flow)
        assert unanswered(flow) == []
    assert site.worker() == pid
    # The daemon works on: a port comes and goes.
    site.host.add_server_port("vhu9")
    site.host.wait_status("vhu9", "listening")
    site.host.delete_port("vhu9")
    wait_until(lambda: not left(site, "vhu9"), "the port's end")


# -- a neighbour that is hostile ------------------------------------------------------------------


@pytest.fixture
def neighbour(site, guest):
    """The socket of a second port; the first guest's traffic must not notice what happens there."""
    path = site.host.add_server_port(NEIGHBOUR)
    try:
        site.host.wait_status(NEIGHBOUR, "listening")
        with echoed(site, guest) as flow:
            yield path
            assert unanswered(flow) == []
    finally:
        site.host.delete_port(NEIGHBOUR)
        wait_until(lambda: not left(site, NEIGHBOUR), "the port's end")


def connect(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(path))
    sock.settimeout(PATIENCE)
    return sock


def works(site, path):
    """A well-behaved front-end gets a frame onto the bridge; errors of others are forgotten."""
    guest = SoftGuest(path, Config(mac=NEIGHBOUR_MAC))
    try:
        guest.start()
        site.host.wait_status(NEIGHBOUR, "running")
        with Capture(site.host.namespace, NEIGHBOUR) as capture:
            guest.send(FRAME)
            guest.drain()
            wait_until(lambda: FRAME in [f.data for f in capture.frames()], "the frame")
        wait_until(lambda: "error" not in site.host.status(NEIGHBOUR), "no error any more")
    finally:
        guest.close()


def error(site):
    return site.host.status(NEIGHBOUR).get("error", "").partition(":")[0]


GARBAGE = {
    "header-version": spec.HEADER.pack(spec.FrontendRequest.GET_FEATURES, 0, 0),
    "payload-too-large": spec.HEADER.pack(spec.FrontendRequest.SET_OWNER, spec.VERSION, 1 << 31),
    "request-unknown": spec.HEADER.pack(4711, spec.VERSION, 0),
    "regions-fds-differ": spec.HEADER.pack(
        spec.FrontendRequest.SET_MEM_TABLE, spec.VERSION, 8 + spec.MEMORY_REGION.size
    )
    + spec.MEMORY_HEADER.pack(1, 0)
    + spec.MEMORY_REGION.pack(0, 4096, 0, 0),
}


def test_garbage_has_a_name_and_costs_its_connection(site, neighbour):
    for name, data in GARBAGE.items():
        with connect(neighbour) as sock:
            sock.sendall(data)
            assert sock.recv(1) == b"", name
        wait_until(lambda name=name: error(site) == name, f"external_ids tell {name}")
        assert site.stats(NEIGHBOUR)["errors"][name] == 1
        assert f"{NEIGHBOUR}: {name}" in site.host.log.read_text()
    works(site, neighbour)


def test_a_second_front_end_is_refused_and_the_first_one_stays(site, neighbour):
    guest = SoftGuest(neighbour, Config(mac=NEIGHBOUR_MAC))
    try:
        guest.start()
        site.host.wait_status(NEIGHBOUR, "running")
        with connect(neighbour) as second:
            assert second.recv(1) == b""
        wait_until(lambda: error(site) == "second-front-end", "the error's name")
        with Capture(site.host.namespace, NEIGHBOUR) as capture:
            guest.send(FRAME)
            guest.drain()
            wait_until(lambda: FRAME in [f.data for f in capture.frames()], "the frame")
    finally:
        guest.close()


STORM = 30
"""Connections; they are let in one by one, soon one a second (worker/frontend.py)."""


def test_connecting_and_closing_without_end_floods_neither_database_nor_log(site, neighbour):
    def written():
        return site.host.switch.database.read_text().count("OVSDB JSON")

    begun = time.monotonic()
    transactions, logged = written(), site.host.log.read_text().count("\n")
    for number in range(STORM):
        with connect(neighbour) as sock:
            version = spec.VERSION if number % 2 else 0
            sock.sendall(spec.HEADER.pack(spec.FrontendRequest.GET_FEATURES, version, 0))
    wait_until(lambda: site.stats(NEIGHBOUR)["connections"] == STORM, "all were served")
    # None was taken for a second front-end because the one before it had just gone.
    errors = site.stats(NEIGHBOUR)["errors"]
    assert errors.pop("header-version") == STORM // 2
    assert errors.keys() == {"front-end-gives-up"}
    site.host.wait_status(NEIGHBOUR, "listening")
    # A worker tells its state twenty times at once and then twice a second (worker/daemonlink.py).
    told = 20 + 2 * (time.monotonic() - begun)
    assert written() - transactions <= 2 * told
    assert site.host.log.read_text().count("\n") - logged <= 3 * told
    works(site, neighbour)


def test_a_memory_file_cut_short_costs_its_own_port_only(site, neighbour):
    pid = site.worker(NEIGHBOUR)
    guest = SoftGuest(neighbour, Config(mac=NEIGHBOUR_MAC))
    try:
        guest.start()
        site.host.wait_status(NEIGHBOUR, "running")
        kick = guest.pairs[0].tx_vring.kick
        for fd in guest.memory.fds:
            os.ftruncate(fd, 0)
        kick.signal()
        wait_until(lambda: error(site) == "memory-file-truncated", "the error's name")
        wait_until(lambda: successor(site, pid, NEIGHBOUR), "another worker")
    finally:
        guest.frontend.close()
    assert not alive(pid)
    site.host.wait_status(NEIGHBOUR, "listening")
    works(site, neighbour)


def test_half_a_message_and_silence_hold_nobody_else(site, neighbour):
    with connect(neighbour) as sock:
        sock.sendall(struct.pack("<II", spec.FrontendRequest.GET_FEATURES, spec.VERSION))
        site.host.wait_status(NEIGHBOUR, "connected")
        assert site.stats(NEIGHBOUR)["status"] == "connected"
    site.host.wait_status(NEIGHBOUR, "listening")
    works(site, neighbour)
