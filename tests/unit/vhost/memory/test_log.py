# SPDX-License-Identifier: Apache-2.0
"""The dirty log: hostile inputs 61-63."""

import mmap
import os
from pathlib import Path

import pytest

from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.memory.log import DirtyLog


def refusal(size, offset, fd):
    with pytest.raises(PeerError) as caught:
        DirtyLog(size, offset, fd)
    return caught.value.name


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
    assert refusal(0, 0, memfd(4096)) == PeerErrorName.LOG_SIZE_ZERO


@pytest.mark.parametrize(("size", "offset"), [(4096, 2**64 - 4095), (2**64 - 1, 2)])
def test_size_and_offset_wrap(memfd, size, offset):
    assert refusal(size, offset, memfd(4096)) == PeerErrorName.LOG_OFFSET_WRAPS


@pytest.mark.parametrize(("size", "offset"), [(4097, 0), (4096, 1), (2**63, 0)])
def test_file_too_short(memfd, size, offset):
    assert refusal(size, offset, memfd(4096)) == PeerErrorName.LOG_FILE_TOO_SHORT


def test_a_file_that_may_not_be_written(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(bytes(4096))
    fd = os.open(path, os.O_RDONLY)
    assert refusal(4096, 0, fd) == PeerErrorName.LOG_MAP_FAILED


def test_log_smaller_than_memory(memfd):
    log = DirtyLog(1, 0, memfd(4096))  # eight pages
    log.require(8 * 4096)
    with pytest.raises(PeerError) as caught:
        log.require(8 * 4096 + 1)
    assert caught.value.name == PeerErrorName.LOG_SMALLER_THAN_MEMORY
    log.close()
