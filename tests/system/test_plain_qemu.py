# SPDX-License-Identifier: Apache-2.0
"""docs/qemu.md: the page's commands, with the lab's guest in them."""

import os
import shlex
import signal
from itertools import pairwise

import pytest
from support.system.page import block
from support.system.qemu_life import successor
from support.system.qemu_site import GUEST, GUEST_MAC, PEER, PEER_MAC, PORT, Site

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.guests import image, qemu
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

PAGE = "qemu.md"
COMMAND = block(PAGE, "sh", "qemu-system-x86_64")
RECONNECT = block(PAGE, "sh", "reconnect-ms=" if qemu.version() >= (9, 2) else "reconnect=")
QUEUES = block(PAGE, "sh", "packed=on")
INCOMING = block(PAGE, "sh", "-incoming")
LESS = ("-accel", "-cpu", "-drive")
"""What the lab's guest has not: KVM, the host's processor, a disk."""


def options(text):
    """A command's options, each once, with their values."""
    words = pairwise(shlex.split(text))
    return {name: value for name, value in words if name[0] == "-" and value[0] != "-"}


class PageGuest(QemuGuest):
    """The page's VM; `changes` are the page's lines that replace others. `names` are put in place
    of the page's: directories, a port's name."""

    def __init__(self, site, label, names, *changes, incoming=False):
        config = GuestConfig(GUEST_MAC, f"{GUEST}/24", neighbours={PEER: PEER_MAC})
        directory = site.directory / label
        made, unused = image.build(), VhostUser(directory)
        super().__init__(site.host.namespace, directory, made, unused, config, incoming=incoming)
        self._page = options(COMMAND)
        for change in changes:
            self._page |= options(change)
        self._names = {
            "52:54:00:12:34:56": GUEST_MAC,
            # See UNALIGNED; and QEMU 7.2 crashes with MSI-X when it emulates.
            "1G": f"{(256 << 20) - qemu.UNALIGNED}B",
            **({"virtio-net-pci,": "virtio-net-pci,vectors=0,"} if qemu.version() < (8,) else {}),
            **names,
        }

    @property
    def incoming_uri(self):
        return options(INCOMING)["-incoming"].replace("0.0.0.0", "127.0.0.1")

    def _machine_arguments(self):
        words = [
            word for name in self._page if name not in LESS for word in (name, self._page[name])
        ]
        for theirs, ours in self._names.items():
            words = [word.replace(theirs, ours) for word in words]
        return words


@pytest.fixture(scope="module")
def site(qemu_programs):
    with Site() as made:
        yield made


def administer(site, command, names):
    """Run a command of the page's on the host's switch."""
    for theirs, ours in names.items():
        command = command.replace(theirs, ours)
    process.run(["sh", "-ec", command], env=site.host.switch.env)


@pytest.fixture
def delete(site):
    """Ports to delete."""
    names = []
    yield names
    for name in names:
        site.host.delete_port(name)


def test_qemu_listens_and_the_guest_moves(site, delete):
    ports = {name: {"/run/vm": str(site.directory), "vhu0": name} for name in (PORT, "vhu1")}
    for name, names in ports.items():
        administer(site, block(PAGE, "sh", "vhost-server-path"), names)
        delete.append(name)
    with (
        PageGuest(site, "here", ports[PORT]) as here,
        PageGuest(site, "there", ports["vhu1"], incoming=True) as there,
    ):
        site.host.wait_running(PORT)
        site.ping(1472)
        here.migrate(there)
        site.host.wait_running("vhu1")
        site.ping(1472)


def test_the_port_listens_with_two_packed_queues(site, delete):
    administer(site, block(PAGE, "sh", "vhost-user-mode=server"), {})
    delete.append(PORT)
    site.host.wait_status(PORT, "listening")
    names = {"/run/openvswitch": str(site.host.directory)}
    with PageGuest(site, "guest", names, RECONNECT, QUEUES):
        site.told(vrings=4)
        assert site.features() & Feature.RING_PACKED.mask
        site.ping(1472)
        pid = site.worker()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: successor(site, pid), "another worker")
        site.ping(1472)
