# SPDX-License-Identifier: Apache-2.0
"""The dirty log: hostile inputs 61-63."""

import mmap
import os
from pathlib import Path

import pytest

from ovs_vhost_plugin.vhost.errors import PeerError
from ovs_vhost_plugin.vhost.memory.log import DirtyLog


def refusal(size, offset, fd):
    with pytest.raises(PeerError) as caught:
        DirtyLog(size, offset, fd)
    return str(caught.value)


def test_the_log_is_shared_from_its_offset_on(memfd):
    fd = memfd(8192)
    front_end = mmap.mmap(fd, 8192)
    log = DirtyLog(4096, 64, fd)
    assert len(log.bitmap) == 4096
    log.bitmap[0] = 0x80
    log.bitmap[4095] = 1
    assert (front_end[64], front_end[64 + 4095]) == (0x80, 1)
    log.close()
    assert len(log.bitmap) == 0


def test_close_unmaps(memfd):
    log = DirtyLog(4096, 0, memfd(4096))
    log.close()
    assert "memfd:guest" not in Path("/proc/self/maps").read_text()


def test_size_zero(memfd):
    assert refusal(0, 64, memfd(4096)) == "log-size-zero: size 0x0, offset 0x40"


@pytest.mark.parametrize(("size", "offset"), [(4096, 2**64 - 4095), (2**64 - 1, 2)])
def test_size_and_offset_wrap(memfd, size, offset):
    text = f"log-offset-wraps: size {size:#x}, offset {offset:#x}"
    assert refusal(size, offset, memfd(4096)) == text


@pytest.mark.parametrize(
    ("size", "offset"), [(4097, 0), (4096, 1), (2**63, 0), (4096, 2**64 - 4096)]
)
def test_file_too_short(memfd, size, offset):
    text = f"log-file-too-short: {offset:#x} + {size:#x} bytes of a file of 0x1000"
    assert refusal(size, offset, memfd(4096)) == text


def test_a_file_that_may_not_be_written(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(bytes(4096))
    fd = os.open(path, os.O_RDONLY)
    text = "log-map-failed: size 0x1000, offset 0x0: Permission denied"
    assert refusal(4096, 0, fd) == text


def test_log_smaller_than_memory(memfd):
    log = DirtyLog(1, 0, memfd(4096))  # eight pages
    log.require(8 * 4096)
    with pytest.raises(PeerError) as caught:
        log.require(8 * 4096 + 1)
    text = "log-smaller-than-memory: 1 bytes for addresses up to 0x8001"
    assert str(caught.value) == text
    log.close()
