# SPDX-License-Identifier: Apache-2.0
"""What happens to a host at night: no frame is lost by it, and what it breaks heals by itself."""

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.system.disks import filled, mounted
from support.system.numbered_traffic import LossyTraffic, WholeTraffic
from support.system.soft_ports import SoftPort

from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import end_workers
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError, run, wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

DISK = "16m"
"""Bytes of the disk on which a host has its database, logs and records."""
PAUSE = 10.0
"""Seconds for which a host is suspended."""
CUT = 6.0
"""Seconds for which the database does not answer: longer than any of our timers."""


@pytest.fixture
def disk(require):
    """A small disk of its own, for a host's files."""
    require(os.geteuid() == 0, "mounting takes root")
    with TemporaryDirectory(prefix="ovs-vhost-") as top, mounted(Path(top), DISK) as made:
        yield made


@pytest.fixture
def host(disk, require):
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    with Host("faults", disk / "h") as host:
        host.switch.ofctl("del-flows", str(host.directory / f"{BRIDGE}.mgmt"))
        yield host


@pytest.fixture(params=[0, Feature.RING_PACKED.mask], ids=["split", "packed"])
def site(host, request):
    """A port with a guest, and the guest."""
    with SoftPort(host) as port:
        yield port, port.guest(Config(features=FEATURES | request.param))


@pytest.fixture
def split_site(host):
    with SoftPort(host) as port:
        yield port, port.guest(Config())


def processes(host):
    """The host's processes: the switch's, the daemon, the fork server and the workers."""
    pids = [host.switch.server.pid, host.switch.vswitchd.pid, host.daemon.pid]
    children = Path(f"/proc/{host.daemon.pid}/task/{host.daemon.pid}/children")
    pids += [int(pid) for pid in children.read_text().split()]
    pids += [int(path.read_text().split()[0]) for path in host.directory.glob("ovs-vhost/*.pid")]
    return list(dict.fromkeys(pids))


def test_a_worker_is_killed_again_and_again(site, host):
    """The guest comes back each time, and only frames of its outages are lost."""
    port, guest = site
    with LossyTraffic(port, guest) as traffic:
        for killed in range(1, 4):
            traffic.wait_for_more()
            os.kill(port.pid, signal.SIGKILL)
            wait_until(lambda killed=killed: len(traffic.outages) == killed, "the guest's return")
        traffic.wait_for_more()
    assert host.status(port.name)["status"] == "running"
    assert "error" not in host.status(port.name)


def test_the_daemon_is_killed_and_started_again(site, host):
    port, guest = site
    worker = port.pid
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more()
        host.stop_daemon(kill=True)
        traffic.wait_for_more()
        host.start_daemon()
        wait_until(lambda: port.name in host.appctl("vhost/stats"), "adoption")
        traffic.wait_for_more()
    assert port.pid == worker
    assert host.status(port.name)["status"] == "running"


def test_the_database_server_is_killed_and_started_again(split_site, host):
    port, guest = split_site
    worker = port.pid
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more()
        host.switch.stop_server(kill=True)
        traffic.wait_for_more()
        host.switch.start_server()
        host.wait_status(port.name, "running")
        traffic.wait_for_more()
    assert port.pid == worker


def test_the_database_does_not_answer_for_a_while(split_site, host):
    """As if its connection were cut: nothing is closed, nothing comes."""
    port, guest = split_site
    worker, server = port.pid, host.switch.server.pid
    with WholeTraffic(port, guest) as traffic:
        os.kill(server, signal.SIGSTOP)
        try:
            until = time.monotonic() + CUT
            while time.monotonic() < until:
                traffic.wait_for_more()
        finally:
            os.kill(server, signal.SIGCONT)
        host.wait_status(port.name, "running")
        traffic.wait_for_more()
    assert port.pid == worker and port.errors() == {}


def test_the_switch_is_killed_and_started_again(split_site, host):
    port, guest = split_site
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more()
        host.switch.stop_vswitchd(kill=True)
        traffic.wait_for_more()
        host.switch.start_vswitchd()
        host.wait_ofport(port.name)
        traffic.wait_for_more()
    assert host.status(port.name)["status"] == "running"


def test_the_database_is_emptied_and_filled_again(split_site, host):
    port, guest = split_site
    switch = host.switch
    switch.stop_server()
    switch.database.unlink()
    run(["ovsdb-tool", "create", str(switch.database), "/usr/share/openvswitch/vswitch.ovsschema"])
    switch.start_server()
    switch.vsctl("--no-wait", "init")
    wait_until(lambda: not list(host.directory.glob("ovs-vhost/*.pid")), "the port's removal")

    switch.add_bridge(BRIDGE)
    port.add("external_ids:vhost-user-queues=1")
    host.wait_status(port.name, "listening")
    guest.close()
    guest = port.guest(Config())
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more()


def test_the_disk_is_full(split_site, host, disk):
    """Database, log and records are on it: the guest has its traffic, and the rest comes later."""
    port, guest = split_site
    worker = port.pid
    with WholeTraffic(port, guest) as traffic:
        with filled(disk):
            # More than what may be left of the file's last page, and nothing to its traffic.
            note = f"external_ids:note={'x' * (1 << 16)}"
            with pytest.raises(LabError, match="No space left on device"):
                host.switch.vsctl("--timeout=5", "set", "Interface", port.name, note)
            traffic.wait_for_more()
            assert json.loads(host.appctl("vhost/show", "-f", "json"))["ports"]
            host.stop_daemon(kill=True)
            traffic.wait_for_more()
        host.start_daemon()
        traffic.wait_for_more()
        with SoftPort(host) as other:
            host.wait_status(other.name, "listening")
    assert port.pid == worker
    assert host.status(port.name)["status"] == "running"


@pytest.fixture
def records(host):
    """A small disk for the daemon's records alone, which its workers' journals are on."""
    host.stop_daemon()
    directory = host.directory / "ovs-vhost"
    with mounted(directory, "512k", "mode=0700"):
        try:
            host.start_daemon()
            yield directory
        finally:
            host.stop_daemon()
            end_workers(host.directory)


def test_there_is_no_room_for_records(records, host):
    """Ports that are there have their traffic; a new one says what it lacks, and then comes."""
    with SoftPort(host) as port, ExitStack() as full:
        full.enter_context(filled(records))
        with WholeTraffic(port, port.guest(Config())) as traffic:
            traffic.wait_for_more()
            port.wait_published("journal-not-kept: vring ")
            path = host.add_server_port("late0")
            wait_until(
                lambda: "No space left on device" in host.status("late0").get("error", ""),
                "the reason",
            )
            full.close()
            host.wait_status("late0", "listening")
            assert path.exists()
            host.delete_port("late0")
            traffic.wait_for_more()


def test_the_run_directory_takes_no_writes(split_site, host):
    port, guest = split_site
    worker, directory = port.pid, str(host.directory)

    def as_daemon(*command):
        """Run a command where the daemon sees its files: it has mounts of its own."""
        run(["nsenter", f"--target={host.daemon.pid}", "--mount", *command])

    with WholeTraffic(port, guest) as traffic:
        as_daemon("mount", "--bind", directory, directory)
        try:
            as_daemon("mount", "-o", "remount,bind,ro", directory)
            host.add_server_port("late0")
            wait_until(
                lambda: "Read-only file system" in host.status("late0").get("error", ""),
                "the reason",
            )
            traffic.wait_for_more()
        finally:
            as_daemon("umount", "--lazy", directory)
        host.wait_status("late0", "listening")
        host.delete_port("late0")
        traffic.wait_for_more()
    assert port.pid == worker and host.status(port.name)["status"] == "running"


@pytest.mark.parametrize("first", ["daemon", "worker"])
def test_the_host_is_suspended(split_site, host, first):
    """All processes stand still, and go on in any order: none is taken for one that hangs."""
    port, guest = split_site
    worker = port.pid
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more()
    pids = processes(host)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE)
    for pid in sorted(pids, key=lambda pid: (pid == worker) == (first == "daemon")):
        os.kill(pid, signal.SIGCONT)
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more()
    assert port.pid == worker and port.errors() == {}
    assert host.status(port.name)["status"] == "running"
    assert "error" not in host.status(port.name)
