# SPDX-License-Identifier: Apache-2.0
"""The unit of etc/ with its hardening, run by systemd: ports work in both modes, and go on.

What the kernel refuses a hardened service shows only so: capabilities, system calls, namespaces,
files and devices are all as on a machine where the unit is installed.
"""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.checkout import TOP
from support.metrics_page import ask
from support.system import cgroups
from support.system.systemd_host import RUNDIR, UNIT, SystemdHost

from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

MACS = [bytes.fromhex("52540000000a"), bytes.fromhex("52540000000b")]
GROUP = 36  # any that is not root's


@pytest.fixture
def make_host(require):
    words = packages.missing((*packages.SWITCH, *packages.SYSTEMD), root=False)
    require(words is None, words)
    require(cgroups.mounted(), "no second version of control groups here")
    with ExitStack() as stack:
        top = Path(stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-")))
        yield lambda **more: stack.enter_context(SystemdHost("unit", top / "h", **more))


def _start(stack: ExitStack, path: Path, *, server: bool) -> SoftGuest:
    guest = SoftGuest(path, Config(), server=server)
    stack.callback(guest.close)
    guest.start()
    return guest


def _exchange(guests: list[SoftGuest]) -> None:
    """Each sends the other a frame through the bridge."""
    for one, other in ((0, 1), (1, 0)):
        frame = MACS[other] + MACS[one] + b"\x88\xb5" + os.urandom(100)

        def came(one=one, other=other, frame=frame) -> bool:
            guests[one].send(frame)  # the first ones may meet a bridge that has just begun
            guests[one].drain()
            received = guests[other].receive_all(0.2) or []
            return any(got.frame == frame for _, got in received)

        wait_until(came, f"a frame from guest {one}")


def test_ports_of_both_modes_serve_and_outlive_the_service(make_host):
    host = make_host()
    client = host.directory / "c.sock"
    with ExitStack() as stack:
        host.add_client_port("client0", RUNDIR / "c.sock")
        host.add_server_port("server0")
        host.wait_ready("client0")
        host.wait_status("server0", "listening")
        guests = [
            _start(stack, client, server=True),
            _start(stack, host.directory / "server0", server=False),
        ]
        host.wait_running("client0")
        host.wait_running("server0")
        _exchange(guests)
        pids = {name: host.worker_pid(name) for name in ("client0", "server0")}
        # Workers are in the service's control group: stopping it leaves them be.
        assert host.run("systemctl", "stop", "ovs-vhost") == ""
        _exchange(guests)
        assert host.run("systemctl", "start", "ovs-vhost") == ""
        host.wait_daemon()
        host.wait_running("client0")
        assert {name: host.worker_pid(name) for name in pids} == pids
        _exchange(guests)
    # A worker that does not listen is killed, though the service has no CAP_KILL.
    host.run("kill", "-STOP", str(pids["client0"]))
    host.delete_port("client0")
    wait_until(lambda: not (host.directory / "ovs-vhost" / "client0.pid").exists(), "its end")
    assert not host.run("ps", "-o", "stat=", "-p", str(pids["client0"])).strip()


def test_what_the_service_makes_is_nobody_else_s(make_host):
    host = make_host()
    host.add_server_port("server0")
    host.wait_status("server0", "listening")
    (control,) = host.directory.glob("ovs-vhost.*.ctl")
    modes = {path.name: path.stat().st_mode & 0o777 for path in host.directory.iterdir()}
    assert modes[control.name] == 0o770 and modes["server0"] == 0o660
    assert modes["ovs-vhost.log"] == modes["ovs-vhost.pid"] == 0o600
    assert modes["ovs-vhost"] == 0o700
    words = host.run("systemctl", "show", "ovs-vhost", "-P", "StateDirectory", "-P", "MainPID")
    status = host.run("cat", f"/proc/{words.split()[-1]}/status")
    bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd"))
    assert int(bounding, 16).bit_count() == len(_capabilities())


def test_a_directory_with_qemu_s_group_needs_no_capability(make_host):
    """As etc/tmpfiles.d has it: no --sock-owner, and so no CAP_CHOWN."""
    host = make_host()
    place = host.directory / "vhost"
    place.mkdir()
    os.chown(place, 0, GROUP)
    place.chmod(0o2750)
    host.switch.vsctl("set", "Open_vSwitch", ".", "other_config:vhost-sock-dir=vhost")
    host.add_server_port("server0")
    host.wait_status("server0", "listening")
    found = (place / "server0").stat()
    assert (found.st_gid, found.st_mode & 0o777) == (GROUP, 0o660)


def test_an_owner_by_option_needs_the_drop_in_that_the_unit_names(make_host):
    caps = "CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER"
    assert caps in UNIT.read_text()
    host = make_host(options="--sock-owner=65534:65534", drop_in=caps)
    host.add_server_port("server0")
    host.wait_status("server0", "listening")
    assert (host.directory / "server0").stat().st_uid == 65534


def test_metrics_on_loopback_need_the_drop_in_of_their_page(make_host):
    page = (TOP / "docs" / "metrics.md").read_text()
    (drop_in,) = re.findall(r"```\n\[Service\]\n(.*?)```", page, re.DOTALL)
    host = make_host(drop_in=drop_in)
    host.switch.vsctl("set", "Open_vSwitch", ".", "other_config:vhost-user-metrics=tcp:9478")

    def scraped() -> bytes:
        return ask(("127.0.0.1", 9478), make=host.namespace.socket)

    wait_until(lambda: b"ovs_vhost_serving 1.0" in scraped(), "an answer on loopback")


def _capabilities() -> list[str]:
    lines = UNIT.read_text().splitlines()
    return [
        word
        for line in lines
        if line.startswith("CapabilityBoundingSet=")
        for word in line.partition("=")[2].split()
    ]
