# SPDX-License-Identifier: Apache-2.0
"""The programs that the demo and the tests use, and the distribution packages that bring them.

Run as a program (`python3 packages.py install`) it installs what is missing.  The Makefile does
that before there is a virtual environment, so this module needs nothing but Python itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """A program by name (found on PATH), or any file by its path, and the package that has it."""

    name: str
    package: str

    @property
    def present(self) -> bool:
        """Whether this machine has it."""
        if self.name.startswith("/"):
            return Path(self.name).exists()
        return shutil.which(self.name, path=_search_path()) is not None


SWITCH = (
    Program("ip", "iproute2"),
    Program("ovsdb-server", "openvswitch-switch"),
    Program("ovs-vswitchd", "openvswitch-switch"),
    Program("ovs-vsctl", "openvswitch-switch"),
    Program("ovs-appctl", "openvswitch-switch"),
)
GUEST = (
    Program("qemu-system-x86_64", "qemu-system-x86"),
    Program("busybox", "busybox-static"),
    Program("cpio", "cpio"),
    Program("zstd", "zstd"),
    Program("nc.openbsd", "netcat-openbsd"),
    Program("chrt", "util-linux"),
)
DPDK_SWITCH = Program(
    "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", "openvswitch-switch-dpdk"
)
NFT = Program("nft", "nftables")
WIRESHARK = Program("tshark", "tshark")
"""Reads what `ovs-vhost capture` writes."""
TEST = (
    NFT,
    WIRESHARK,
    Program("iperf3", "iperf3"),
    Program("ethtool", "ethtool"),
    Program("ping", "iputils-ping"),
    Program("tcpdump", "tcpdump"),
    Program("dpdk-testpmd", "dpdk-dev"),
    DPDK_SWITCH,
)
OVN = (
    Program("ovn-northd", "ovn-central"),
    Program("ovn-controller", "ovn-host"),
    Program("ovn-nbctl", "ovn-common"),
)
BINDINGS = (
    Program("/usr/lib/python3/dist-packages/ovs/__init__.py", "python3-openvswitch"),
    Program(
        "/usr/lib/python3/dist-packages/sortedcontainers/__init__.py", "python3-sortedcontainers"
    ),
)
"""Open vSwitch's for Python as Debian has them: a package of the product would depend on these."""
LIBVIRT = (
    # In Debian 12 this package has QEMU's user, and by its dependencies the rest.
    Program("libvirtd", "libvirt-daemon-system"),
    Program("virsh", "libvirt-clients"),
)
SYSTEMD = (
    Program("/lib/systemd/systemd", "systemd"),
    Program("systemd-analyze", "systemd"),
    Program("systemd-tmpfiles", "systemd"),
    Program("unshare", "util-linux"),
)
"""Programs that check etc/ and run the unit; the product needs none of them."""
RELEASES = (Program("debootstrap", "debootstrap"), Program("unshare", "util-linux"))
"""Programs that make a root of another release (distro.py) and enter it."""
UML = (
    Program("linux.uml", "user-mode-linux"),
    Program("busybox", "busybox-static"),
    Program("cpio", "cpio"),
    Program("nc.openbsd", "netcat-openbsd"),
)
"""A guest that needs no KVM."""
AUTOMATION = (Program("ansible-playbook", "ansible-core"),)
"""The program that runs examples/ports.yml."""
EVERYTHING = (
    *(*SWITCH, *GUEST, *OVN, *TEST, *BINDINGS, *LIBVIRT, *SYSTEMD, *RELEASES, *UML),
    *AUTOMATION,
)

_UNITS = {
    "openvswitch-switch": ("openvswitch-switch", "ovs-vswitchd", "ovsdb-server"),
    "ovn-central": ("ovn-central", "ovn-northd", "ovn-ovsdb-server-nb", "ovn-ovsdb-server-sb"),
    "ovn-host": ("ovn-host", "ovn-controller"),
    "libvirt-daemon-system": (
        *("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"),
        *("virtlogd.socket", "virtlogd-admin.socket", "virtlockd.socket", "virtlockd-admin.socket"),
        "libvirt-guests.service",
    ),
}
"""The services of a package, which the next boot would start."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = (
    "#!/bin/sh\n# ovs-vhost-plugin: start no service while its packages install\nexit 101\n"
)


def missing(programs: Iterable[Program], *, root: bool = True) -> str | None:
    """One line about the missing programs and how to get them; None when all are present."""
    packages = missing_packages(programs)
    if packages:
        return f"missing: {' '.join(packages)}; as root: apt-get install {' '.join(packages)}"
    if root and os.geteuid() != 0:
        return "missing: root, to make network namespaces and taps; try sudo"
    return None


def missing_packages(programs: Iterable[Program]) -> list[str]:
    """The packages of the programs that this machine lacks, each once, in order."""
    return list(dict.fromkeys(program.package for program in programs if not program.present))


def install(programs: Iterable[Program]) -> None:
    """Install the packages that are missing, without starting any of their services.

    The next boot does not start a newly installed Open vSwitch or OVN either.
    """
    packages = missing_packages(programs)
    if not packages:
        return
    print(f"installing {' '.join(packages)}", flush=True)
    with _no_services():
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *packages)
    units = [unit for package in packages for unit in _UNITS.get(package, ())]
    if units and shutil.which("systemctl"):
        subprocess.run(
            ["systemctl", "disable", "--quiet", *units], stderr=subprocess.DEVNULL, check=False
        )


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Another apt (a fresh machine's own) may hold the lock for a while.
    options = ["-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"]
    subprocess.run(
        ["apt-get", *options, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True
    )


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Keep Debian's maintainer scripts from starting services (invoke-rc.d asks policy-rc.d).

    A policy that the machine already has stays.  Our policy, left by a killed run, is removed.
    """
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:
        yield
        return
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _search_path() -> str:
    # The administrator's tools are not on every user's PATH.
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def main(arguments: list[str]) -> int:
    """Run `install` or `check`, which prints what is missing; return the exit status."""
    try:
        if arguments == ["install"]:
            install(EVERYTHING)
            return 0
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"packages: {error}", file=sys.stderr)
        return 1
    if arguments != ["check"]:
        print("usage: packages.py install | check", file=sys.stderr)
        return 2
    words = missing(EVERYTHING, root=False)
    if words:
        print(words, file=sys.stderr)
    return 1 if words else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
