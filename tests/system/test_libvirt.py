# SPDX-License-Identifier: Apache-2.0
"""docs/libvirt.md, with the distribution's libvirtd: what the page says is what is run here."""

import os
import signal

import pytest
from support.system.libvirt_site import ADDRESS, DOMAIN, PAGE, PORT, Domain, domain_xml
from support.system.page import block

from ovs_vhost_plugin.lab.hosts.fabric import Fabric
from ovs_vhost_plugin.lab.hosts.namespace import veth
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

MIGRATION = {"a": "10.9.0.1", "b": "10.9.0.2"}
SERVER_PORT = block(PAGE, "sh", "options:vhost-server-path")
CLIENT_PORT = block(PAGE, "sh", "external_ids:vhost-user-mode=server")
CLIENT_NIC = block(PAGE, "xml", "<reconnect")
OWNER = "--sock-owner libvirt-qemu:kvm"


@pytest.fixture(scope="module")
def fabric(require):
    words = packages.missing((*packages.SWITCH, *packages.GUEST, *packages.LIBVIRT), root=False)
    require(words is None, words)
    with Fabric(backend="libvirt", daemon_options=[OWNER.replace(" ", "=")]) as made:
        veth(made.a.namespace, "mig0", made.b.namespace, "mig0")
        for host in (made.a, made.b):
            host.namespace.address("mig0", f"{MIGRATION[host.label]}/24")
        yield made


def test_a_domain_whose_qemu_listens(fabric):
    place = block(PAGE, "tmpfiles", "/run/vm")
    for host in (fabric.a, fabric.b):
        (host.run_directory / "vm.conf").write_text(place)
        host.shell("systemd-tmpfiles --create /run/vm.conf")
        host.shell(SERVER_PORT)
        host.wait_ready(PORT)
    live(fabric, domain_xml())


def test_a_domain_whose_qemu_connects(fabric):
    for host in (fabric.a, fabric.b):
        host.shell(CLIENT_PORT)
        host.wait_status(PORT, "listening")
    live(fabric, domain_xml(CLIENT_NIC))


def live(fabric, xml):
    """All that an operator does to a domain; the guest has its network after each step."""
    domain = Domain(fabric, fabric.a, xml)
    starts(domain)
    is_suspended(domain)
    has_its_nic_replaced(domain)
    is_reset(domain)
    is_saved(domain)
    loses_its_worker(domain)
    loses_libvirtd(domain)
    moves(domain, fabric.b)
    ends(domain)
    for host in (fabric.a, fabric.b):
        host.delete_port(PORT)
    fabric.a.virsh("undefine", DOMAIN)


def starts(domain):
    shown = domain.host.shell(block(PAGE, "sh", "virsh define"))
    assert f"Domain '{DOMAIN}' started" in shown and PORT in shown
    with domain.console() as console:
        console.wait_booted()
    domain.introduce()
    domain.wait_statistics()


def is_suspended(domain):
    domain.host.virsh("suspend", DOMAIN)
    assert domain.state() == "paused"
    domain.host.virsh("resume", DOMAIN)
    domain.ping()


def has_its_nic_replaced(domain):
    with domain.console() as console:
        domain.host.shell(f"virsh detach-device {DOMAIN} nic.xml --live")
        console.run("while [ -e /sys/class/net/eth0 ]; do usleep 9999; done")
        domain.host.wait_status(PORT, domain.idle)
        domain.host.shell(f"virsh attach-device {DOMAIN} nic.xml --live")
        console.run("until [ -e /sys/class/net/eth0 ]; do usleep 9999; done")
        console.run(f"ip address add {ADDRESS}/24 dev eth0 && ip link set eth0 up")
    domain.ping()


def is_reset(domain):
    with domain.console() as console:
        domain.host.virsh("reset", DOMAIN)
        console.wait_booted()
    domain.ping()


def is_saved(domain):
    with domain.console() as console:
        console.run("echo before >/tmp/mark")
    domain.host.virsh("managedsave", DOMAIN)
    domain.host.wait_status(PORT, domain.idle)
    domain.host.virsh("start", DOMAIN)
    domain.ping()
    with domain.console() as console:
        assert console.run("cat /tmp/mark") == "before"


def loses_its_worker(domain):
    pid = domain.host.worker_pid(PORT)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: domain.host.worker_pid(PORT) != pid, "another worker")
    domain.ping()


def loses_libvirtd(domain):
    domain.host.stop_libvirtd()
    domain.ping()
    domain.host.start_libvirtd()
    assert domain.state() == "running"
    domain.ping()


def moves(domain, there):
    command = block(PAGE, "sh", "virsh migrate").strip()
    # The hosts have no ssh, and no names.
    uri, address = f"'{there.uri}'", MIGRATION[there.label]
    local = f"--migrateuri tcp://{address} --listen-address {address}"
    assert "qemu+ssh://b/system" in command
    domain.host.shell(f"{command.replace('qemu+ssh://b/system', uri)} {local}")
    assert domain.state() == "shut off"
    domain.host = there
    assert domain.state() == "running"
    domain.ping()
    with domain.console() as console:
        assert console.run("cat /tmp/mark") == "before"


def ends(domain):
    domain.host.virsh("destroy", DOMAIN)
    domain.host.wait_status(PORT, domain.idle)
