# SPDX-License-Identifier: Apache-2.0
"""Small disks for a host's files, and full ones. Mounting takes root."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovs_vhost_plugin.lab.process import run


@contextmanager
def mounted(directory: Path, size: str, *options: str) -> Iterator[Path]:
    """A disk of its own on `directory`, of a size as mount(8) takes it."""
    wanted = ",".join([f"size={size}", *options])
    run(["mount", "-t", "tmpfs", "-o", wanted, "tmpfs", str(directory)])
    try:
        yield directory
    finally:
        run(["umount", "--lazy", str(directory)])


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Fill the disk of `directory` to its last page, for the time of the block."""
    filler = directory / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    try:
        yield
    finally:
        filler.unlink()
