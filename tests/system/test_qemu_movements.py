# SPDX-License-Identifier: Apache-2.0
"""The ways in which QEMU takes a guest from one of its processes to another.

One guest goes through them all, each time to the other of two ports, and takes along a file that
nobody touches. Which of them there are, QEMU's version says.
"""

import itertools
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.system.qemu_site import GUEST, GUEST_MAC, MIB, PEER, PEER_MAC, Site

from ovs_vhost_plugin.lab.guests import image, qemu
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

PORTS = ("vhu0", "vhu1")
POSTCOPY = "external_ids:vhost-user-postcopy"
MODERN = qemu.version() >= (10,)
MSIX = MODERN  # 7.2 crashes with it when it emulates


@dataclass(frozen=True)
class Way:
    """QEMU has it from that version on; `capabilities` are those of migrate-set-capabilities."""

    since: tuple[int, ...]
    capabilities: tuple[str, ...] = ()
    file: bool = False
    same_memory: bool = False


WAYS = {
    "multifd": Way((7, 2), ("multifd",)),
    "x-ignore-shared": Way((7, 2), ("x-ignore-shared",), same_memory=True),
    "switchover-ack": Way((8, 1), ("return-path", "switchover-ack")),
    "file": Way((8, 2), file=True),
    "mapped-ram": Way((9, 0), ("mapped-ram",), file=True),
    # Before, QEMU could lose the last pages that were asked for.
    "postcopy-preempt": Way((8, 2), ("postcopy-ram", "postcopy-preempt")),
    "cpr-transfer": Way((10,), same_memory=True),
}
HERE = {name: way for name, way in WAYS.items() if qemu.version() >= way.since}
CAPABILITIES = {word for way in HERE.values() for word in way.capabilities}


class Process(QemuGuest):
    """A destination's monitor says where it takes the guest from."""

    incoming_uri = "defer"


class Life:
    """A guest that runs in one QEMU after another, and its memory: a file that two may have."""

    def __init__(self, site, memories):
        self._site = site
        self._memories = memories
        self._numbers = itertools.count()
        self._port, self._memory = PORTS[0], self._new_memory()
        self.here = self._process(Process, self._port, self._memory)
        self.here.start()
        self.here.run(f"head -c {8 * MIB} /dev/urandom >/tmp/still", seconds=60)
        self._still = self.here.run("sha256sum /tmp/still")
        self.check()

    def next(self, kind=Process, *, same_memory=False, extra=()):
        """A QEMU for it at the other port, not started."""
        self._port = PORTS[1 - PORTS.index(self._port)]
        if not same_memory:
            self._memory = self._new_memory()
        return self._process(kind, self._port, self._memory, incoming=True, extra=extra)

    def arrived(self, there):
        """It is there now."""
        there.qmp.wait_event("RESUME")
        self.here.stop()
        self.here = there
        self.check()

    def check(self):
        """It has its network and its file, and the port nothing to say against it."""
        self._site.host.wait_running(self._port)
        self._site.ping(1472)
        assert self.here.run("sha256sum /tmp/still") == self._still
        interrupts = self.here.run("grep virtio0-input /proc/interrupts", check=False)
        assert ("MSI" in interrupts) == MSIX
        stats = self._site.stats(self._port)
        assert stats["faults"] == stats["errors"] == {}

    def postcopy(self, wanted):
        """Have the port where it goes offer postcopy, or not."""
        host, port = self._site.host, self._port
        command = ["set", "Interface", port, f"{POSTCOPY}=true"]
        forget = ["remove", "Interface", port, "external_ids", POSTCOPY.partition(":")[2]]
        host.switch.vsctl(*(command if wanted else forget))
        if wanted:
            wait_until(lambda: self._site.stats(port)["postcopy"] == "offered", "postcopy")

    def _process(self, kind, port, memory, *, incoming=False, extra=()):
        modern = ["-machine", "aux-ram-share=on"] if MODERN else []  # for cpr-transfer
        return kind(
            self._site.host.namespace,
            self._site.directory / f"q{next(self._numbers)}",
            image.build(),
            VhostUser(self._site.host.directory / f"{port}.sock"),
            GuestConfig(
                GUEST_MAC,
                f"{GUEST}/24",
                device={"vectors": "3"} if MSIX else {},
                neighbours={PEER: PEER_MAC},
                memory=f"memory-backend-file,mem-path={memory},share=on",
            ),
            incoming=incoming,
            extra=[*modern, *extra],
        )

    def _new_memory(self):
        return self._memories / str(next(self._numbers))


@pytest.fixture(scope="module")
def life(qemu_programs):
    memories = Path(tempfile.mkdtemp(prefix="ovh-", dir="/dev/shm"))
    try:
        with Site() as site:
            for port in PORTS:
                site.host.add_client_port(port)
                site.host.wait_ready(port)
            life = Life(site, memories)
            yield life
            life.here.stop()
    finally:
        shutil.rmtree(memories)


@pytest.mark.parametrize("name", HERE)
def test_a_guest_is_taken_along(life, name):
    way = HERE[name]
    (transfer if name == "cpr-transfer" else migrate)(life, way)


def migrate(life, way):
    """What migrates, over a socket or by a file that outlives the source."""
    here, there = life.here, life.next(same_memory=way.same_memory)
    postcopy = "postcopy-ram" in way.capabilities
    if postcopy:
        life.postcopy(True)
        # So slow that nearly all of it is still to come when the guest is there.
        here.qmp.command("migrate-set-parameters", max_bandwidth=4 * MIB)
    there.start()
    for side in (here, there):
        prepare(side, way)
    uri = f"{'file' if way.file else 'unix'}:{there.directory}/guest"
    if not way.file:
        there.qmp.command("migrate-incoming", uri=uri)
    here.qmp.command("migrate", uri=uri)
    if postcopy:
        here.qmp.wait_event("MIGRATION", status="active")
        here.switch_to_postcopy()
    here.finish_sending()
    if way.file:
        there.qmp.command("migrate-incoming", uri=uri)
    if postcopy:
        assert here.qmp.command("query-migrate")["ram"]["postcopy-requests"] > 0
    life.arrived(there)
    if postcopy:
        life.postcopy(False)


def transfer(life, way):
    """The memory stays where it is, and its descriptors go (QEMU's docs/devel/migration/CPR).

    The destination takes them first of all, and only then makes its devices and its monitor.
    """
    here = life.here
    socket = {"transport": "socket", "type": "unix"}
    first = {"channel-type": "cpr", "addr": {**socket, "path": f"{here.directory}/cpr"}}
    there = life.next(QemuGuest, same_memory=True, extra=["-incoming", json.dumps(first)])
    then = {"channel-type": "main", "addr": {**socket, "path": f"{there.directory}/migrate"}}
    there.launch()
    there.process.ready(Path(first["addr"]["path"]).exists, "the socket for descriptors")
    prepare(here, way)
    here.qmp.command("migrate-set-parameters", mode="cpr-transfer")
    here.qmp.command("migrate", channels=[then, first])
    there.attend()
    here.finish_sending()
    life.arrived(there)


def prepare(side, way):
    """Set what this way takes, and nothing that an earlier one did."""
    wanted = {"events": True, **{word: word in way.capabilities for word in CAPABILITIES}}
    listed = [{"capability": word, "state": state} for word, state in wanted.items()]
    side.qmp.command("migrate-set-capabilities", capabilities=listed)
    side.qmp.drain().clear()
