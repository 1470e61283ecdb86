# SPDX-License-Identifier: Apache-2.0
"""The life of the Debian package on a fresh Debian 13: installed, upgraded, removed, purged.

systemd runs its unit there, and a VM of that Debian's QEMU uses the port from the installation on.
The tests are steps of that life, in their order.
"""

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import checkout
from support.system import cgroups
from support.system.debian_machine import DebianMachine
from support.system.fresh_root import FreshRoot

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.guests.image import Image
from ovs_vhost_plugin.lab.guests.qemu import PROGRAM, GuestConfig, QemuGuest, VhostUser
from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

BEFORE = "0.0.9"
"""The release before, as this test makes it: the same code under another number."""
BRIDGE, PORT, FOREIGN = "br0", "vhu0", "foreign0"
OUTSIDE, MAC, ADDRESS = "10.0.0.1", "52:54:00:00:00:05", "10.0.0.5"
LOG = "/var/log/openvswitch/ovs-vhost.log"
NOT_OURS = (
    *("/run/", "/var/lib/systemd/"),  # systemd notes what ran
    *("/var/lib/openvswitch", "/var/log/openvswitch"),  # Open vSwitch leaves its database and logs
    "/var/lib/libuuid",  # as uuidd its clock
)
SOCKET = Path("/run/openvswitch", PORT)


@dataclass(frozen=True)
class Built:
    """The packages, and what was printed when the one of this release was made."""

    before: Path
    now: Path
    words: str


def build(root: FreshRoot) -> Built:
    """`make deb` of this checkout, and the same package as that of a release before."""
    checkout.copy(root.root / "source")
    words = root.fetch("make", "deb", directory=Path("/source"))
    made = root.root / "source/build/deb"
    before, now = (made / f"ovs-vhost_{version}_all.deb" for version in (BEFORE, __version__))
    tree = root.root / "before"
    root.fetch("dpkg-deb", "--raw-extract", inside(root, now), inside(root, tree))
    for name in ("DEBIAN/control", "usr/lib/python3/dist-packages/ovs_vhost_plugin/__init__.py"):
        text = (tree / name).read_text()
        assert __version__ in text
        (tree / name).write_text(text.replace(__version__, BEFORE))
    root.fetch("dpkg-deb", "--build", "-Znone", inside(root, tree), inside(root, before))
    return Built(before, now, words)


def inside(root: FreshRoot, path: Path) -> str:
    """A path as it is called in the root."""
    return f"/{path.relative_to(root.root)}"


@dataclass(frozen=True)
class Site:
    """The machine with the package of the release before, its VM, and what there was earlier."""

    machine: DebianMachine
    guest: QemuGuest
    built: Built
    files: set[str]


@pytest.fixture(scope="module")
def built_and_booted(require):
    """The packages, and a fresh machine that runs and has nothing of ours."""
    programs = (*packages.SWITCH, *packages.GUEST, *packages.TEST, *packages.SYSTEMD)
    words = packages.missing((*programs, *packages.RELEASES), root=False)
    require(words is None, words)
    require(cgroups.mounted(), "no second version of control groups here")
    with ExitStack() as stack:
        top = namespace.scratch_directory()
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        builder = stack.enter_context(FreshRoot(top / "builder"))
        machine = stack.enter_context(DebianMachine("package", top / "m"))
        with ThreadPoolExecutor() as pool:
            building = pool.submit(build, builder)
            machine.fetch_packages("systemd-sysv", "qemu-system-x86", "logrotate")
            machine.boot()
            built = building.result()
        yield built, machine


@pytest.fixture(scope="module")
def site(built_and_booted):
    """The release before is installed there, and a VM runs on its port."""
    built, machine = built_and_booted
    for deb in (built.before, built.now):
        shutil.copy(deb, machine.root / "root")
    machine.fetch_packages(f"/root/{built.before.name}", download=True)
    files = machine.files()
    machine.apt("install", f"/root/{built.before.name}")
    machine.namespace.tap(FOREIGN)
    bridge = ("set", "Bridge", BRIDGE, "datapath_type=netdev")  # the kernel here has no datapath
    machine.run("ovs-vsctl", "add-br", BRIDGE, "--", *bridge)
    machine.namespace.address(BRIDGE, f"{OUTSIDE}/24")
    mode = ("set", "Interface", PORT, "external_ids:vhost-user-mode=server")
    machine.run("ovs-vsctl", "add-port", BRIDGE, PORT, "--", *mode)
    wait_status(machine, "listening", seconds=300)  # the kernels are compiled
    with boot_guest(machine) as guest:
        wait_status(machine, "running")
        machine.namespace.ping(ADDRESS)
        yield Site(machine, guest, built, files)


def wait_status(machine: DebianMachine, status: str, seconds: int = 60) -> None:
    condition = f"external_ids:vhost-user-status={status}"
    words = ("ovs-vsctl", f"--timeout={seconds}", "wait-until", "Interface", PORT, condition)
    machine.run(*words, seconds=seconds + 5)


def boot_guest(machine: DebianMachine) -> QemuGuest:
    """A VM of the machine's own QEMU, on the port."""
    made = image.build()
    seen = Image(*(Path(shutil.copy(f, machine.shared)) for f in (made.kernel, made.initramfs)))
    return QemuGuest(
        machine.namespace,
        machine.shared / "guest",
        seen,
        VhostUser(SOCKET, listen=False),
        GuestConfig(mac=MAC, address=f"{ADDRESS}/24"),
        program=machine.inside(PROGRAM),
    )


@contextmanager
def nothing_lost(site: Site) -> Iterator[None]:
    """Pings cross the port all the while, and each is answered."""
    output = site.machine.shared / "ping.out"
    output.unlink(missing_ok=True)
    pinging = site.machine.namespace.start(["ping", "-n", "-i", "0.05", ADDRESS], output)

    def answered() -> list[int]:
        return [int(word) for word in re.findall(r"icmp_seq=(\d+) ttl", output.read_text())]

    try:
        wait_until(answered, "the first answer")
        yield
        last = len(answered())
        wait_until(lambda: len(answered()) > last + 10, "answers go on")
    finally:
        pinging.stop()
    assert answered() == list(range(1, max(answered()) + 1))


def worker(site: Site) -> dict[str, object]:
    """The port's process, as `show` has it; {} while the daemon does not know it."""
    status, words = site.machine.result("ovs-vhost", "show", "--format", "json")
    ports = json.loads(words)["ports"] if status == 0 else []
    return (ports and ports[0]["worker"]) or {}


def test_make_deb_makes_it_and_lintian_finds_no_error(built_and_booted):
    built, _ = built_and_booted
    assert "lintian --fail-on error" in built.words
    assert not re.findall(r"^E: .*", built.words, re.MULTILINE)


def test_after_the_installation_the_unit_runs_and_the_doctor_is_content(site):
    machine = site.machine
    assert machine.run("systemctl", "is-enabled", "ovs-vhost").strip() == "enabled"
    assert machine.run("systemctl", "is-active", "ovs-vhost").strip() == "active"
    assert machine.run("ovs-vhost", "--version").split()[-1] == BEFORE
    status, words = machine.result("ovs-vhost", "doctor")
    assert status == 0, words
    journal = machine.run("journalctl", "--no-pager", "-o", "cat", "-u", "ovs-vhost")
    assert journal.count("serving unix:") == 1, journal
    with nothing_lost(site):
        pass


def test_a_restart_of_the_service_loses_nothing(site):
    before = worker(site)["build"]
    main = site.machine.run("systemctl", "show", "ovs-vhost", "-P", "MainPID")
    with nothing_lost(site):
        site.machine.run("systemctl", "restart", "ovs-vhost")
        wait_until(lambda: worker(site).get("phase") == "running", "the worker's adoption")
    assert site.machine.run("systemctl", "show", "ovs-vhost", "-P", "MainPID") != main
    assert worker(site)["build"] == before


def test_its_log_file_is_rotated_by_the_switch_s_own_rule(site):
    machine = site.machine
    default, rule = "/etc/default/ovs-vhost", "/etc/logrotate.d/openvswitch-switch"
    machine.run("sed", "-i", "s/^OVS_VHOST_OPTIONS=.*/OVS_VHOST_OPTIONS=--log-file/", default)
    machine.run("systemctl", "restart", "ovs-vhost")
    wait_until(lambda: worker(site).get("phase") == "running", "the worker's adoption")
    machine.run("logrotate", "--force", "--state", "/run/rotated", rule)
    pid = machine.run("systemctl", "show", "ovs-vhost", "-P", "MainPID").strip()
    opened = machine.run("find", f"/proc/{pid}/fd", "-lname", f"{LOG}*", "-printf", "%l\n")
    assert opened.split() == [LOG]
    assert machine.run("zcat", f"{LOG}.1.gz")


def test_an_upgrade_loses_nothing_and_ends_with_the_new_release_s_worker(site):
    with nothing_lost(site):
        site.machine.apt("install", f"/root/{site.built.now.name}")
        wait_until(lambda: worker(site).get("version") == __version__, "the new release's worker")
    assert site.machine.run("ovs-vhost", "--version").split()[-1] == __version__
    assert worker(site)["outdated"] == ""


def test_a_removal_takes_what_is_ours_and_nothing_else(site):
    machine = site.machine
    foreign = link(site, FOREIGN)
    machine.apt("remove", "ovs-vhost")
    wait_until(lambda: not ours(machine.programs()), "the end of the ports' processes")
    assert link(site, PORT) is None
    assert link(site, FOREIGN) == foreign is not None
    keys = machine.run("ovs-vsctl", "get", "Interface", PORT, "external_ids")
    assert keys.strip() == "{vhost-user-mode=server}"
    assert "vhost" not in machine.run("ovs-vsctl", "list", "Open_vSwitch")


def test_a_purge_leaves_nothing(site):
    machine = site.machine
    machine.apt("purge", "ovs-vhost")
    assert not ours(new_files(site))
    # What it depends on goes too: then the disk is as it was, but for the switch's own.
    weak = ("Recommends", "Suggests")
    keeps = [f"-oAPT::AutoRemove::{name}Important=false" for name in weak]
    machine.apt("autoremove", "--purge", *keeps)
    assert not [path for path in new_files(site) if not path.startswith(NOT_OURS)]


def new_files(site: Site) -> list[str]:
    """The paths that the machine has, and had not before the installation."""
    shared = str(site.machine.shared)
    return sorted(p for p in site.machine.files() - site.files if not p.startswith(shared))


def ours(words: list[str]) -> list[str]:
    """Those that have the product's name."""
    return [line for line in words if re.search("ovs[-_]vhost", line)]


def link(site: Site, name: str) -> dict[str, object] | None:
    """The kernel's index and address of a device."""
    links = json.loads(site.machine.namespace.run("ip", "-json", "link", "show"))
    found = [one for one in links if one["ifname"] == name]
    return {key: found[0][key] for key in ("ifindex", "address")} if found else None
