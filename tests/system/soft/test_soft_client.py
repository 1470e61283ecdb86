# SPDX-License-Identifier: Apache-2.0
"""Client mode: the daemon finds the guest's socket, however long its path is, and it may move."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from support.system.numbered_traffic import LossyTraffic
from support.system.soft_ports import SoftPort, check_inward, check_outward

from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

SOME = range(60, 1515, 100)


class ClientPort(SoftPort):
    """A port whose guests listen, on `socket` of a directory with a long path."""

    waiting = "connecting"

    def add(self, *settings):
        # As orchestrators do it: a long path below, root's short link to it, and a way round.
        deep = self.host.directory / self.name / ("x" * 150) / ("y" * 150)
        deep.mkdir(parents=True)
        (self.host.directory / f"{self.name}.d").symlink_to(f"./{self.name}/{'x' * 150}")
        self.socket = deep / "vm.sock"
        path = self.host.directory / f"{self.name}.d" / ".." / ("x" * 150) / deep.name / "vm.sock"
        assert len(str(path)) > 300
        return self.host.add_client_port(self.name, path, *settings)

    def make_guest(self, config):
        held = os.open(self.socket.parent, os.O_PATH)
        try:
            return SoftGuest(Path(f"/proc/self/fd/{held}/{self.socket.name}"), config, server=True)
        finally:
            os.close(held)


@pytest.fixture
def port(soft_host):
    with ClientPort(soft_host) as port:
        yield port


def test_a_path_may_be_as_long_as_the_file_system_allows(port):
    guest = port.guest(Config())
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)


def test_a_guest_that_comes_back_is_found_again_by_its_path(port):
    for _ in range(3):
        guest = port.guest(Config())
        check_outward(port, guest, SOME)
        guest.close()
        port.socket.unlink()
        wait_until(lambda: port.stats()["status"] == "connecting", "the end of the connection")
    assert port.errors() == {}


def test_a_worker_is_killed_and_the_next_one_finds_the_guest(port):
    with LossyTraffic(port, port.guest(Config())) as traffic:
        for killed in range(1, 4):
            traffic.wait_for_more()
            os.kill(port.pid, signal.SIGKILL)
            wait_until(lambda killed=killed: len(traffic.outages) == killed, "the guest's return")
        traffic.wait_for_more()
    assert port.errors() == {}


def switches(pid):
    """How often a process has slept and been woken, or has been made to wait."""
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(map(int, re.findall(r"ctxt_switches:\t(\d+)", text)))


def test_a_socket_that_does_not_come_wakes_nobody_and_one_that_comes_is_found(port):
    wait_until(lambda: port.host.status(port.name).get("status") == "connecting", "its status")
    before = switches(port.pid)
    time.sleep(3)  # what does not happen cannot be awaited; it was tried thrice in that time
    assert switches(port.pid) == before

    # Its directory is made anew, by way of one that is put in its place.
    place = port.socket.parent
    place.rename(place.with_name("old"))
    place.with_name("new").mkdir()
    place.with_name("new").rename(place)
    guest = port.guest(Config())
    check_outward(port, guest, SOME)


def test_a_worker_still_waits_after_the_daemon_was_replaced(port):
    host = port.host
    host.stop_daemon(kill=True)
    host.start_daemon()
    guest = port.guest(Config())
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)
