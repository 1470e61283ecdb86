# SPDX-License-Identifier: Apache-2.0
"""The versions of QEMU, Open vSwitch, ... on this machine: tests' expectations depend on them."""

from __future__ import annotations

import functools
import re

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.process import LabError


@functools.cache
def of(program: str) -> tuple[int, int]:
    """The version that a program prints (`--version`), as (major, minor)."""
    return parse(process.run([program, "--version"]).stdout)


def qemu() -> tuple[int, int]:
    """QEMU's version."""
    return of("qemu-system-x86_64")


def open_vswitch() -> tuple[int, int]:
    """Open vSwitch's version."""
    return of("ovs-vswitchd")


def parse(words: str) -> tuple[int, int]:
    """The first version number in a program's output."""
    found = re.search(r"\b(\d+)\.(\d+)", words)
    if found is None:
        raise LabError(f"no version in: {words.strip()}")
    return int(found[1]), int(found[2])
