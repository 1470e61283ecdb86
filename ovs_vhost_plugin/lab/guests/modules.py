# SPDX-License-Identifier: Apache-2.0
"""Kernel modules as distributions ship them: found by name, unpacked, in the order to load them.

Debian 13 and Ubuntu compress them (.ko.xz, .ko.zst), and busybox's insmod takes plain ones only.
"""

from __future__ import annotations

import gzip
import lzma
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ovs_vhost_plugin.lab.process import LabError


def load_order(tree: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """The modules `wanted` and all they depend on, each after its dependencies, unpacked.

    `tree` is a kernel's /lib/modules/VERSION.  Modules built into that kernel are left out.
    """
    builtin = {_name(Path(line)) for line in (tree / "modules.builtin").read_text().splitlines()}
    files = {_name(path): path for path in sorted(tree.rglob("*.ko*")) if path.is_file()}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name in builtin:
            return
        if name not in files:
            raise LabError(f"{tree}: no module {name}")
        module = unpack(files[name])
        for dependency in dependencies(module):
            load(dependency)
        loaded[name] = module

    for name in wanted:
        load(name)
    return loaded


def unpack(path: Path) -> bytes:
    """A module file's ELF object, decompressed by the file name's suffix."""
    unpacker = _UNPACKERS.get(path.suffix)
    if unpacker is None:
        raise LabError(f"{path}: compressed in a way unknown here ({path.suffix})")
    try:
        module = unpacker(path)
    except (OSError, EOFError, lzma.LZMAError, subprocess.CalledProcessError) as error:
        raise LabError(f"{path}: cannot be unpacked: {error}") from error
    if not module.startswith(b"\x7fELF"):
        raise LabError(f"{path}: not a kernel module")
    return module


def dependencies(module: bytes) -> list[str]:
    """The modules that a module needs, from its .modinfo section (depends=A,B)."""
    found = re.search(rb"(?<![\w.])depends=([\w,-]*)\0", module)
    names = found[1].decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]


def _name(path: Path) -> str:
    # The kernel itself takes virtio-net and virtio_net for the same name.
    return path.name.partition(".ko")[0].replace("-", "_")


def _zstd(path: Path) -> bytes:
    # Python has it from 3.14 on.
    return subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, check=True).stdout


_UNPACKERS: dict[str, Callable[[Path], bytes]] = {
    ".ko": Path.read_bytes,
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
    ".xz": lambda path: lzma.decompress(path.read_bytes()),
    ".zst": _zstd,
}
