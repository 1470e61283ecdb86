# SPDX-License-Identifier: Apache-2.0
"""Which versions of QEMU, Open vSwitch, ... are here: what tests expect of them differs."""

from __future__ import annotations

import functools
import re

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.process import LabError


@functools.cache
def of(program: str) -> tuple[int, int]:
    """The version that a program says it is (`--version`), as (major, minor)."""
    return parse(process.run([program, "--version"]).stdout)


def qemu() -> tuple[int, int]:
    """QEMU's."""
    return of("qemu-system-x86_64")


def open_vswitch() -> tuple[int, int]:
    """Open vSwitch's."""
    return of("ovs-vswitchd")


def parse(words: str) -> tuple[int, int]:
    """The first version number in what a program says of itself."""
    found = re.search(r"\b(\d+)\.(\d+)", words)
    if found is None:
        raise LabError(f"no version in: {words.strip()}")
    return int(found[1]), int(found[2])
