# SPDX-License-Identifier: Apache-2.0
"""Guests move between releases of QEMU: the machine's own and Debian 13's, which has 10.0.

Where the machine has that one itself, it is both.
"""

import contextlib
import shutil
from dataclasses import replace

import pytest

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.qemu import PROGRAM, GuestConfig, QemuGuest, VhostUser, version
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, Fabric
from ovs_vhost_plugin.lab.platform import distro, packages
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.vhost.spec import ProtocolFeature

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("qemu_programs"),
    pytest.mark.timeout(1800),  # the first time, Debian 13 is installed into a directory
]

PORT = "vhu0"
MAC, ADDRESS = "52:54:00:00:00:05", "10.0.0.5"
MACHINE = "pc-i440fx-7.2"
"""Known to QEMU 7.2 and to those after it."""
OWN = (PROGRAM,)
NEWER_RELEASE, NEWER = "trixie", (10,)
STATE = "other_config:vhost-user-device-state=true"


@pytest.fixture(scope="module")
def newer(require, qemu_programs):
    """How QEMU 10 is called."""
    if version() >= NEWER:
        return OWN
    words = packages.missing(packages.RELEASES)
    require(words is None, words)
    command = distro.command(NEWER_RELEASE, PROGRAM)
    assert "version 10." in process.run([*command, "--version"], seconds=1700).stdout
    return command


@pytest.fixture
def fabric():
    with Fabric() as made:
        for host in (made.a, made.b):
            host.add_client_port(PORT, None, "external_ids:vhost-user-postcopy=true")
            host.wait_ofport(PORT)
        for host in (made.a, made.b):
            host.wait_ready(PORT)
            wait_until(lambda host=host: host.stats(PORT)["postcopy"] == "offered", "postcopy")
        yield made


def qemu(host, program, *, incoming=False, queues=1):
    directory = host.directory / "guest"
    directory.mkdir(exist_ok=True)
    made = image.build()
    # Another release sees this machine's /tmp, and not where the image is kept.
    seen = replace(
        made,
        kernel=shutil.copy(made.kernel, directory),
        initramfs=shutil.copy(made.initramfs, directory),
    )
    config = GuestConfig(
        mac=MAC,
        address=f"{ADDRESS}/24",
        neighbours={CLIENT_ADDRESS: CLIENT_MAC},
        cpus=queues,
        machine=MACHINE,
    )
    backend = VhostUser(host.directory / f"{PORT}.sock", queues=queues)
    return QemuGuest(
        host.namespace, directory, seen, backend, config, incoming=incoming, program=program
    )


def ping(fabric):
    """Ask the guest for its address, which is how it claims it, and ping it."""
    fabric.client.run("ip", "neigh", "flush", "dev", "eth0")
    fabric.client.ping(ADDRESS, count=1)


def known(host):
    """The guest's IPv4 addresses, as the host knows them."""
    return [ip for one in host.stats(PORT)["addresses"] if one["mac"] == MAC for ip in one["ipv4"]]


def test_a_guest_moves_from_qemu_10_to_the_machines_own_and_back(fabric, newer):
    hosts, programs = [fabric.a, fabric.b], [newer, OWN]
    with contextlib.ExitStack() as closing:
        here = closing.enter_context(qemu(hosts[0], programs[0]))
        hosts[0].wait_running(PORT)
        ping(fabric)
        for _ in range(2):
            hosts.reverse()
            programs.reverse()
            there = closing.enter_context(qemu(hosts[0], programs[0], incoming=True))
            here.migrate(there)
            here.stop()
            hosts[0].wait_running(PORT)
            ping(fabric)
            here = there
        assert [host.stats(PORT)["errors"] for host in hosts] == [{}, {}]


def test_the_state_moves_between_hosts_where_it_is_switched_on(fabric, newer):
    for host in (fabric.a, fabric.b):
        host.switch.vsctl("set", "Open_vSwitch", ".", STATE)
        wait_until(lambda host=host: "state True" in host.log.read_text(), "the worker is told")
        host.stats(PORT)  # which it answers after that
    with qemu(fabric.a, newer) as here, qemu(fabric.b, newer, incoming=True) as there:
        fabric.a.wait_running(PORT)
        ping(fabric)
        wait_until(lambda: known(fabric.a) == [ADDRESS], "its address is learned")
        here.migrate(there)
        fabric.b.wait_running(PORT)
        for host in (fabric.a, fabric.b):
            assert (
                int(host.status(PORT)["protocol-features"], 16) & ProtocolFeature.DEVICE_STATE.mask
            )
            assert host.stats(PORT)["errors"] == {}
        # The guest has not been asked for anything since.
        assert known(fabric.b) == [ADDRESS]


def test_postcopy_with_several_pairs_fails_while_the_guest_is_at_the_source(fabric, newer):
    with (
        qemu(fabric.a, newer, queues=2) as here,
        qemu(fabric.b, newer, incoming=True, queues=2) as there,
    ):
        fabric.a.wait_running(PORT)
        here.start_migration(there, postcopy=True)
        with pytest.raises(LabError, match="the migration failed"):
            here.finish_migration(there)
        assert here.qmp.command("query-status")["status"] == "running"
        ping(fabric)
        error = wait_until(lambda: fabric.b.status(PORT).get("error"), "an error's name")
        assert error.startswith("postcopy-several-pairs: ")


def test_postcopy_with_one_pair_passes(fabric, newer):
    with qemu(fabric.a, newer) as here, qemu(fabric.b, newer, incoming=True) as there:
        fabric.a.wait_running(PORT)
        slow = {"max_bandwidth": 4 << 20, "max_postcopy_bandwidth": 64 << 20}
        here.start_migration(there, postcopy=True, **slow)
        here.qmp.wait_event("MIGRATION", 60, status="active")
        here.switch_to_postcopy()
        there.qmp.wait_event("RESUME", 60)
        here.finish_migration(there, 300)
        ping(fabric)
        assert fabric.b.stats(PORT)["errors"] == {}
