# SPDX-License-Identifier: Apache-2.0
"""The lab's private hosts: they work, they are apart from the machine's, and nothing is left."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from ovs_vhost_plugin.common import pidfile
from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.hosts.fabric import PHYSICAL, Fabric
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.measure.flow import Flow, number_of
from ovs_vhost_plugin.lab.measure.macwatch import MacWatch
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def _programs(require):
    words = packages.missing(packages.SWITCH)
    require(words is None, words)


def namespaces() -> set[str]:
    directory = Path("/run/netns")
    return {path.name for path in directory.glob("*")} if directory.exists() else set()


def test_a_namespace_is_gone_with_all_that_lived_in_it(tmp_path):
    with Namespace("gone") as place:
        # A worker outlives its parent: this one's parent has ended.
        place.run("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $! >$0", str(tmp_path / "pid"))
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
    assert place.name not in namespaces()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # whoever reaps it may do so
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_namespace_is_gone_after_an_error():
    with pytest.raises(RuntimeError), Namespace("error") as place:
        assert place.name in namespaces()
        raise RuntimeError
    assert place.name not in namespaces()


def test_a_sweep_takes_what_dead_owners_left_and_nothing_else():
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = f"{namespace.PREFIX}-{dead.pid}-0-left"
    subprocess.run(["ip", "netns", "add", left], check=True)
    with Namespace("mine") as mine:
        assert left in namespace.sweep()
        assert left not in namespaces()
        assert mine.name in namespaces()


def test_a_sweep_ends_workers_whose_host_was_killed(require):
    require(os.geteuid() == 0, "only root has the records of workers")
    owner = subprocess.Popen(["sleep", "1000"])
    worker = subprocess.Popen(["sleep", "1000"])  # in no namespace of the host
    scratch = Path(f"/tmp/{namespace.PREFIX}-{owner.pid}-left")
    records = scratch / "ovs-vhost"
    records.mkdir(parents=True)
    pidfile.write(records / "vhu0.pid", worker.pid)
    assert scratch.name not in namespace.sweep() and worker.poll() is None
    owner.kill()
    owner.wait()
    assert scratch.name in namespace.sweep() and not scratch.exists()
    assert worker.wait(PATIENCE) == -signal.SIGKILL


def test_a_socket_lives_in_its_namespace_and_the_thread_comes_home():
    home = Path("/proc/thread-self/ns/net").readlink()
    with Namespace("one") as one, Namespace("two") as two:
        veth(one, "x", two, "y")
        one.address("x", "10.9.0.1/24")
        two.address("y", "10.9.0.2/24")
        sender = one.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver = two.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender, receiver:
            receiver.bind(("10.9.0.2", 5))
            receiver.settimeout(PATIENCE)
            sender.sendto(b"across", ("10.9.0.2", 5))
            assert receiver.recv(10) == b"across"
    assert Path("/proc/thread-self/ns/net").readlink() == home


def test_a_switch_keeps_its_database_over_a_crash_and_ends_both_processes(tmp_path):
    with Namespace("switch") as place, PrivateSwitch(place, tmp_path / "s") as switch:
        switch.add_bridge("br0")
        place.tap("tap0")
        switch.add_port("br0", "tap0", "external_ids:color=blue", tag=7)
        switch.wait_until("Interface", "tap0", "ofport>=1")
        switch.restart_server(kill=True)
        switch.restart_vswitchd(kill=True)
        assert switch.interface("tap0", "external_ids:color") == "blue"
        assert switch.interface("tap0", "external_ids:flavour") == ""
        assert switch.ofport("tap0") == 1
        processes = [switch.server, switch.vswitchd]
    assert [program.running for program in processes if program] == [False, False]
    assert not (tmp_path / "s").exists()


def test_a_switch_that_cannot_start_says_why(tmp_path):
    with Namespace("broken") as place:
        switch = PrivateSwitch(place, tmp_path / "s", program="false")
        with pytest.raises(LabError, match="ended with status 1"), switch:
            pass
    with pytest.raises(LabError, match="too long"):
        PrivateSwitch(place, Path("/tmp", "x" * 90))


@pytest.fixture(scope="module")
def fabric(_programs):
    with Fabric(daemons=False) as made:
        yield made


def test_each_host_has_a_switch_of_its_own_without_the_kernels_datapath(fabric):
    assert fabric.a.switch.vsctl("list-br") == BRIDGE
    for switch in (fabric.a.switch, fabric.b.switch, fabric.physical):
        assert switch.vsctl("get", "Bridge", switch.vsctl("list-br"), "datapath_type") == "netdev"


def test_a_flow_crosses_the_physical_switch_whole(fabric):
    # The second host's own port answers for the guest.
    bridge = fabric.b.namespace
    bridge.address(BRIDGE, "10.0.0.2/24")
    mac = bridge.mac(BRIDGE)
    fabric.set_neighbour("10.0.0.2", mac)
    receiver = bridge.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("10.0.0.2", 7000))
    receiver.settimeout(PATIENCE)
    with (
        receiver,
        Capture(fabric.b.namespace, "up0") as capture,
        Flow(fabric.client, ("10.0.0.2", 7000), rate=100, size=1000) as flow,
    ):
        numbers = [number_of(1, receiver.recv(2000), 1000) for _ in range(100)]
        flow.stop()
        payloads = [frame.udp_payload(7000) for frame in capture.frames() if not frame.outgoing]
    # Checked by the receiving kernel too: a frame with a wrong checksum does not come.
    assert numbers == list(range(100))
    passed = [number_of(1, payload, 1000) for payload in payloads if payload is not None]
    assert passed[:100] == numbers


def test_a_capture_tells_direction_and_time(fabric):
    with (
        Capture(fabric.client, "eth0") as capture,
        Flow(fabric.client, ("10.0.0.2", 7001), rate=100) as flow,
    ):
        wait_until(lambda: flow.sent >= 10, "ten packets")
        flow.stop()
        sent = [*flow.sent_at, time.monotonic()]
        frames = [frame for frame in capture.frames() if frame.udp_payload(7001) is not None]
    assert len(frames) == flow.sent
    assert all(frame.outgoing for frame in frames)
    # Each after it was begun and before the next was, on clocks that are told apart by less.
    for frame, (begun, ended) in zip(frames, pairwise(sent), strict=True):
        assert begun - 0.001 < frame.at < ended + 0.001


def test_a_watch_sees_a_mac_move(fabric):
    mac = "02:00:00:00:00:77"
    frame = bytes.fromhex("ff" * 6 + mac.replace(":", "") + "8035") + bytes(46)
    host_a, host_b = (fabric.physical_port(host) for host in (fabric.a, fabric.b))
    with MacWatch(fabric.physical, PHYSICAL, mac) as watch:
        for host, port in ((fabric.a, host_a), (fabric.b, host_b)):
            fabric_socket = host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
            with fabric_socket:
                fabric_socket.bind((BRIDGE, 0))
                fabric_socket.send(frame)
            wait_until(lambda port=port: watch.learned_at(port), "the MAC on the host's port")
        assert watch.learned_at(host_a) < watch.learned_at(host_b)
        assert watch.learned_at(host_a, since=watch.learned_at(host_b)) is None
