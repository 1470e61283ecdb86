# SPDX-License-Identifier: Apache-2.0
"""A guest that leaves faster than its worker's loop comes round is told of among the migrations."""

import contextlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest
from support.system.fabric_ports import server_ports

from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest

pytestmark = pytest.mark.system

PORT = "hasty0"
MAC = bytes.fromhex("525400000001")
LEFT = ["memory-is-copied", "rings-stopped", "front-end-gone"]


@pytest.fixture(params=["with a hold", "without a hold"])
def paths(fabric, request):
    """The sockets of a port on each host."""
    hold = f"external_ids:vhost-user-hold={str(request.param == 'with a hold').lower()}"
    with server_ports(fabric, PORT, hold) as made:
        yield made


@pytest.fixture
def guest(fabric, paths):
    """A guest that runs on host a."""
    made = SoftGuest(paths[0], Config(mac=MAC))
    try:
        made.start()
        fabric.a.wait_running(PORT)
        yield made
    finally:
        made.close()


def moves(host):
    return json.loads(host.appctl("vhost/migrations", PORT, "--format", "json"))["migrations"]


def wait_left(host, count):
    """The last of `count` moves that the host tells of, once its guest has left."""

    def left():
        told = moves(host)
        return told if told and told[-1]["end"] == "left" and len(told) == count else None

    return wait_until(left, "a guest that has left")[-1]


@contextlib.contextmanager
def stopped(pid):
    """A process that stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "a stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_migration_without_a_pause_is_told(fabric, paths, guest):
    before = len(moves(fabric.a))
    migration = Migration(guest, SoftGuest(paths[1], Config(mac=MAC)).connect())
    migration.begin()
    migration.switch()
    migration.release_source()
    told = wait_left(fabric.a, before + 1)
    assert [step["event"] for step in told["timeline"]][:3] == LEFT


def test_a_front_end_that_waits_for_no_answer_is_told_of(fabric, paths, guest):
    """The worker finds all of the messages, and the end of the connection behind them, at once."""
    before = len(moves(fabric.a))
    front_end, log = guest.frontend, DirtyBitmap(guest.memory)
    tell = front_end.connection.tell
    with contextlib.closing(log), stopped(fabric.a.worker_pid(PORT)):
        tell(FrontendRequest.SET_LOG_BASE, spec.LOG.pack(log.size, 0), [log.fd])
        features = front_end.features | Feature.LOG_ALL.mask
        tell(FrontendRequest.SET_FEATURES, spec.U64.pack(features))
        for vring in guest.vrings:
            tell(FrontendRequest.GET_VRING_BASE, spec.VRING_STATE.pack(vring.index, 0))
        with socket.socket(fileno=os.dup(front_end.connection.fileno())) as end:
            end.shutdown(socket.SHUT_WR)
    told = wait_left(fabric.a, before + 1)
    assert [step["event"] for step in told["timeline"]][:3] == LEFT
