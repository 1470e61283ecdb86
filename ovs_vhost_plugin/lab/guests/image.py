# SPDX-License-Identifier: Apache-2.0
"""The guest's software: a distribution kernel and an initramfs that answers on its console.

The kernel comes from the distribution's own package, unpacked into a cache and never installed.
The initramfs holds busybox, the modules virtio-net needs, netcat and iperf3, and an init. The init
configures eth0 from the kernel's command line and then runs commands from the serial console, one a
line, each answered between markers (see console.py).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.guests import modules
from ovs_vhost_plugin.lab.process import LabError

# Meta packages that depend on the newest kernel for virtual machines: Debian's, Ubuntu's.
KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")

MODULES = ("virtio_pci", "virtio_net", "8021q")
"""Kernel modules that the guest needs; their dependencies come with them."""

INIT = Path(__file__).with_name("init.sh")
BUSYBOX = Path("/bin/busybox")
# Programs that busybox lacks: a receiver of UDP, a traffic generator, tools for a thread's
# scheduling and the NIC's queues. Each only where installed.
_PROGRAMS = ("nc.openbsd", "iperf3", "chrt", "ethtool")
FULL = "usr/bin"
"""The directory of programs that busybox has too, as iproute2's `ip`; they are called by path."""
_FULL_PROGRAMS = ("ip",)


_DOWNLOAD_SECONDS = 600


@dataclass(frozen=True)
class Image:
    """A kernel and an initramfs, for `qemu -kernel … -initrd …`."""

    kernel: Path
    initramfs: Path


def cache_directory() -> Path:
    """`.cache` in a checkout, else the user's cache directory (XDG)."""
    checkout = Path(__file__).parents[3]
    if (checkout / "pyproject.toml").exists():
        return checkout / ".cache"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "ovs-vhost-plugin"


def build(cache: Path | None = None) -> Image:
    """The guest's image, from the cache or freshly made (the first time downloads a kernel)."""
    cache = cache or cache_directory()
    kernel_tree = cache / "kernel"
    if not (kernel_tree / "complete").exists():
        _unpack_kernel(kernel_tree)
    kernels = sorted((kernel_tree / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise LabError(f"{kernel_tree}: no kernel in it; remove the directory to fetch it again")
    version = kernels[-1].name.removeprefix("vmlinuz-")
    return Image(kernels[-1], initramfs(kernel_tree / "lib/modules" / version, MODULES, cache))


def initramfs(tree: Path, names: Sequence[str], cache: Path | None = None) -> Path:
    """The initramfs with those modules of the kernel's `tree`, from the cache or freshly made."""
    cache = cache or cache_directory()
    made = cache / f"initramfs-{_fingerprint(tree.name, names)}.gz"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _pack(tree, names, made)
    return made


def _unpack_kernel(target: Path) -> None:
    """Download the kernel's packages with apt and unpack them into `target`, all or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        tree = Path(scratch, "tree")
        # apt's unprivileged download user cannot enter a scratch directory of root.
        apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download"]
        argv = [*apt, *_kernel_packages()]
        done = process.run(argv, directory=Path(scratch), check=False, seconds=_DOWNLOAD_SECONDS)
        if done.returncode:
            raise LabError(f"the guest's kernel could not be downloaded: {done.stderr.strip()}")
        for package in Path(scratch).glob("*.deb"):
            process.run(["dpkg-deb", "-x", str(package), str(tree)])
        # Debian 12's packages unpack to /lib, later ones to /usr/lib.
        if not (tree / "lib").exists() and (tree / "usr/lib").exists():
            (tree / "lib").symlink_to("usr/lib")
        (tree / "complete").touch()
        shutil.rmtree(target, ignore_errors=True)
        tree.rename(target)


def _kernel_packages() -> list[str]:
    """The packages that hold the newest kernel and its modules."""
    packages = _dependencies(*KERNEL_PACKAGES)
    if not packages:
        process.run(["apt-get", "-qq", "update"], seconds=300)
        packages = _dependencies(*KERNEL_PACKAGES)
    if not packages:
        raise LabError(f"apt knows none of {', '.join(KERNEL_PACKAGES)}: no kernel for the guest")
    # Ubuntu keeps the modules in a package of their own.
    return packages[:1] + [name for name in _dependencies(packages[0]) if "modules" in name]


def _dependencies(*packages: str) -> list[str]:
    """The kernel packages, known to apt, that `packages` depend on."""
    shown = process.run(["apt-cache", "depends", "--important", *packages], check=False).stdout
    return re.findall(r"^ +Depends: (linux-(?:image|modules)-\S+)", shown, re.MULTILINE)


def _programs(names: Sequence[str]) -> list[Path]:
    found = (shutil.which(name) for name in names)
    return [Path(path) for path in found if path]


def _fingerprint(version: str, names: Sequence[str]) -> str:
    """A hash of the initramfs's contents: the kernel, the init, and its programs."""
    digest = hashlib.sha256(f"{version} {tuple(names)}".encode())
    digest.update(INIT.read_bytes())
    for program in (BUSYBOX, *_programs(_PROGRAMS + _FULL_PROGRAMS)):
        digest.update(f"{program} {program.stat().st_mtime_ns} {program.stat().st_size}".encode())
    return digest.hexdigest()[:12]


def _pack(tree: Path, wanted: Sequence[str], target: Path) -> None:
    """Write the initramfs: a cpio archive in the kernel's newc format, gzipped."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for directory in ("bin", FULL, "proc", "sys", "dev", "tmp", "run", "modules"):
            (root / directory).mkdir(parents=True)
        _copy_program(BUSYBOX, root / "bin", root)
        shutil.copy(INIT, root / "init")
        (root / "init").chmod(0o755)
        for number, (name, module) in enumerate(modules.load_order(tree, wanted).items()):
            (root / "modules" / f"{number:02d}-{name}.ko").write_bytes(module)
        for directory, programs in (("bin", _PROGRAMS), (FULL, _FULL_PROGRAMS)):
            for program in _programs(programs):
                _copy_program(program, root / directory, root)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        archive = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            cwd=root,
            input=names.encode(),
            capture_output=True,
            check=True,
        ).stdout
    partial = target.with_suffix(f".{os.getpid()}")
    partial.write_bytes(gzip.compress(archive, 1))
    partial.rename(target)


def _copy_program(program: Path, directory: Path, root: Path) -> None:
    """Copy a program with the libraries that ldd names; ldd fails on a program without any."""
    shutil.copy(program, directory)
    for library in re.findall(
        r"(/\S+) \(0x", process.run(["ldd", str(program)], check=False).stdout
    ):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
