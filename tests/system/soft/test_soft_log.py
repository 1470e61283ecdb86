# SPDX-License-Identifier: Apache-2.0
"""The log of a port's life: a line for each change, none twice, each with the port's name first."""

import itertools
import re

import pytest

from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.fabric import Fabric
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

PORT = "life0"
TIME = "2026-12-01T03:27:47.046000Z"
MAC = bytes.fromhex("525400000001")
BORN = ("tap created", "starting a worker: server /", "listening", "connected")
ENDED = ("ending its worker: the port was removed", "worker ended", "removed")
SOURCE = (*BORN, "running", "migration: memory-is-copied", "migration: left: ", "listening")
DESTINATION = (
    *BORN,
    "migration: announcement-asked-for: ",
    "migration: came: rings-run",
)
ANNOUNCED = "announced 52:54:00:00:00:01 learned "
EITHER = (
    ANNOUNCED,
    "connected",
    "listening",
    "running",
    "forwarding what is held",
    "migration: hold-over",
)


@pytest.fixture
def fabric(require):
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with Fabric() as made:
        yield made


def lines(host):
    """The port's lines, without what stands before its name."""
    written = host.log.read_text().splitlines()
    times = [line.partition(" ")[0] for line in written]
    assert {len(time) for time in times} == {len(TIME)}, times
    found = (re.search(rf"\b{PORT}: (.*)", line) for line in written)
    return [match[1] for match in found if match]


def check(host, story):
    """The log has this story in this order, no line twice in a row, and nothing unknown."""
    told = lines(host)
    rest = iter(told)
    for step in story:
        assert any(line.startswith(step) for line in rest), (step, told)
    assert not [pair for pair in itertools.pairwise(told) if pair[0] == pair[1]], told
    assert not [line for line in told if not line.startswith((*story, *EITHER))], told


@pytest.mark.parametrize("heard", ["at once", "after it runs"])
def test_the_life_of_a_port_with_a_migration(fabric, heard):
    """SEND_RARP may be heard before the guest's rings run or after: the story is the same."""
    paths = [host.add_server_port(PORT) for host in (fabric.a, fabric.b)]
    for host in (fabric.a, fabric.b):
        host.wait_ofport(PORT)
        host.wait_status(PORT, "listening")
    guest = SoftGuest(paths[0], Config(mac=MAC))
    try:
        guest.start()
        guest.announce()
        fabric.a.wait_running(PORT)
        migration = Migration(guest, SoftGuest(paths[1], Config(mac=MAC)).connect())
        migration.begin()
        wait_until(lambda: SOURCE[-3] in lines(fabric.a), "dirty logging, which is told")
        migration.switch()
        if heard == "after it runs":
            fabric.b.wait_running(PORT)
        wait_until(lambda: "connected" in lines(fabric.a)[-2:], "rings that stand still")
        migration.release_source()
        # It asks several times for the announcement of its one arrival, as QEMU does.
        migration.announce(guest.receive)
        wait_until(lambda: len(fabric.b.announcements()) > 1, "announcements")
        wait_until(lambda: any("announced" in line for line in lines(fabric.b)), "one that is told")
    finally:
        guest.close()
    for host in (fabric.a, fabric.b):
        host.wait_status(PORT, "listening")
        host.delete_port(PORT)
        wait_until(lambda host=host: lines(host)[-1:] == ["removed"], "its end")

    check(fabric.a, (*SOURCE, *ENDED))
    check(fabric.b, (*DESTINATION, *ENDED))
    assert sum(line.startswith(ANNOUNCED) for line in lines(fabric.b)) == 1, lines(fabric.b)
