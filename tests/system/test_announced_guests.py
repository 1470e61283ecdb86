# SPDX-License-Identifier: Apache-2.0
"""Guests on real workers, announced by a real daemon: they move, die, come back, call."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ovs_vhost_plugin.guest.migrate import Migration
from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

MAC = bytes.fromhex("525400000001")
ATTACHED = f"external_ids:attached-mac={MAC.hex(':')}"
ONE_ROUND = "external_ids:vhost-user-announce=rounds=1"
FIRST_INDEX = 5000
SAYS_SO = Config(
    mac=MAC,
    features=FEATURES | Feature.GUEST_ANNOUNCE.mask,
    first_index=FIRST_INDEX,
    timeout=60.0,
)


@pytest.fixture
def host(require) -> Iterator[Host]:
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    # Not tmp_path: a socket's path has at most 107 bytes.
    with TemporaryDirectory(prefix="ovs-vhost-") as top, Host("said", Path(top)) as host:
        yield host
        if host.daemon is None:
            host.start_daemon()
        wait_until(lambda: ": active" in host.appctl("vhost/show"), "the daemon serves")
        host.appctl("exit", "--cleanup")


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def add(host: Host, name: str, *settings: str) -> Path:
    path = host.add_server_port(name, *settings)
    host.wait_ofport(name)
    host.wait_status(name, "listening")
    return path


def run(host: Host, path: Path, closing: ExitStack, config: Config = SAYS_SO) -> SoftGuest:
    guest = SoftGuest(path, config)
    closing.callback(guest.close)
    guest.start()
    host.wait_status(path.name, "running")
    return guest


def log(host: Host, port: str) -> list[dict[str, Any]]:
    return json.loads(host.appctl("vhost/announce-log", port, "-f", "json"))["announcements"]


def wait_log(host: Host, port: str, count: int) -> list[dict[str, Any]]:
    return wait_until(
        lambda: (found := log(host, port)) and len(found) >= count and found, f"{count} results"
    )


def is_on(host: Host, port: str) -> bool:
    return host.switch.fdb(BRIDGE).get(MAC.hex(":")) == (str(host.wait_ofport(port)), 0)


def test_a_guest_that_announces_itself_is_announced_before_it_does(host, closing) -> None:
    """It moves from one port to the other and says nothing: the switch knows it all the same."""
    paths = [add(host, f"vhu{index}", ATTACHED, ONE_ROUND) for index in (0, 1)]
    guest = run(host, paths[0], closing)
    assert [entry["trigger"] for entry in wait_log(host, "vhu0", 1)] == ["moved-in"]
    assert is_on(host, "vhu0")
    destination = SoftGuest(paths[1], SAYS_SO).connect()
    host.wait_status("vhu1", "connected")
    migration = Migration(guest, destination)
    migration.begin()
    assert log(host, "vhu1") == [], "connected is not running"

    migration.switch()

    (entry,) = wait_log(host, "vhu1", 1)
    assert (entry["trigger"], entry["outcome"]) == ("moved-in", "learned")
    assert is_on(host, "vhu1")
    migration.release_source()
    host.wait_status("vhu0", "listening")
    assert len(log(host, "vhu0")) == len(log(host, "vhu1")) == 1
    sent = json.loads(host.appctl("vhost/stats", "vhu1", "-f", "json"))["ports"]["vhu1"]
    assert sent["queue_pairs"][0]["tx_packets"] == 0


def test_a_silent_guest_is_told_from_one_that_speaks(host, closing) -> None:
    policy = "external_ids:vhost-user-announce=rounds=1 guest-silent=1000"
    speaking, silent = (add(host, f"vhu{index}", ATTACHED, policy) for index in (0, 1))
    guest = SoftGuest(speaking, SAYS_SO)
    closing.callback(guest.close)
    # In the ring before the ring runs: its second begins then, whatever this process does.
    guest.pairs[0].tx.add(b"\xff" * 6 + MAC + b"\x88\xb5" + bytes(46))
    guest.start()
    guest.drain()
    run(host, silent, closing)
    assert [entry["trigger"] for entry in wait_log(host, "vhu1", 2)] == ["moved-in", "guest-silent"]
    assert [entry["trigger"] for entry in log(host, "vhu0")] == ["moved-in"]


def test_a_guest_whose_worker_died_is_announced_when_it_is_back(host, closing) -> None:
    """With what it was seen to use, which the new worker has not seen."""
    path = add(host, "vhu0", ONE_ROUND)
    guest = run(host, path, closing)
    assert log(host, "vhu0") == [], "nothing is known of it"
    arp = bytes.fromhex("0806 0001 0800 06 04 0001") + MAC + bytes([192, 0, 2, 7])
    guest.send((b"\xff" * 6 + MAC + arp + bytes(6) + bytes([192, 0, 2, 7])).ljust(60, b"\0"))

    (by_its_first_frame,) = wait_log(host, "vhu0", 1)
    assert (by_its_first_frame["trigger"], by_its_first_frame["frames"]) == ("moved-in", 2)
    bases = [vring.queue.used_index for vring in guest.vrings]
    pid = host.worker_pid("vhu0")
    os.kill(pid, signal.SIGKILL)
    host.wait_status("vhu0", "listening")

    back = SoftGuest(path, SAYS_SO).connect()
    guest.run_on(back, bases)

    _, entry = wait_log(host, "vhu0", 2)
    assert (entry["trigger"], entry["outcome"], entry["mac"]) == (
        "reconnect",
        "learned",
        MAC.hex(":"),
    )
    assert entry["frames"] == 2, "RARP, and gratuitous ARP for 192.0.2.7"


@pytest.mark.parametrize("obstacle", ["no management socket", "no daemon"])
def test_send_rarp_reaches_the_switch_through_the_tap(host, closing, obstacle) -> None:
    if obstacle == "no management socket":
        (host.directory / f"{BRIDGE}.mgmt").unlink()
    guest = run(host, add(host, "vhu0"), closing)
    if obstacle == "no daemon":
        host.stop_daemon()
    assert guest.frontend is not None

    guest.frontend.send_rarp(MAC)

    wait_until(lambda: is_on(host, "vhu0"), "the bridge has learned")
    if obstacle == "no management socket":
        (entry,) = wait_log(host, "vhu0", 1)
        assert (entry["trigger"], entry["outcome"]) == ("send-rarp", "learned")
        assert entry["reason"].startswith("injected, OpenFlow: ")
