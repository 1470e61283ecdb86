# SPDX-License-Identifier: Apache-2.0
"""An io_uring of one kind of request takes no other, and nothing can be registered with it."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.uring import WRITEV, Uring

_NOP, _READV, _OPENAT, _SOCKET = 0, 1, 18, 45
_ENTER, _REGISTER = 426, 427
_GETEVENTS = 1
_REFUSED = -errno.EACCES, -errno.EINVAL, -errno.EOPNOTSUPP


@pytest.fixture
def uring() -> Iterator[Uring]:
    try:
        uring = Uring(8, WRITEV)
    except OSError as error:
        pytest.skip(f"io_uring: {error}")  # as in most containers
    yield uring
    uring.close()


def outcome(uring: Uring, operation: int, fd: int, flags: int = 0) -> int:
    """The result of a request to write b"frame" to `fd`, or to do something else."""
    data = ctypes.create_string_buffer(b"frame", 5)
    iovec = (ctypes.c_uint64 * 2)(ctypes.addressof(data), 5)
    request = struct.pack("=BBHiQQI36x", operation, flags, 0, fd, 0, ctypes.addressof(iovec), 1)
    ctypes.memmove(uring.requests, request, len(request))
    tail = ctypes.c_uint32.from_address(uring.sq_tail)
    ctypes.c_uint32.from_address(uring.order + 4 * (tail.value % uring.entries)).value = 0
    tail.value += 1
    assert process.system_call(_ENTER, uring.fd, 1, 1, _GETEVENTS, None, 0) == 1
    head = ctypes.c_uint32.from_address(uring.cq_head)
    at = uring.completions + 16 * (head.value % uring.most_completions) + 8
    head.value += 1
    assert head.value == ctypes.c_uint32.from_address(uring.cq_tail).value
    return ctypes.c_int32.from_address(at).value


def test_its_requests_are_carried_out(uring: Uring) -> None:
    reader, writer = os.pipe()
    for _ in range(2 * uring.most_completions + 1):
        assert outcome(uring, WRITEV, writer) == 5
        assert os.read(reader, 9) == b"frame"
    for fd in (reader, writer):
        os.close(fd)


@pytest.mark.parametrize("operation", [_NOP, _READV, _OPENAT, _SOCKET])
def test_no_other_request_is(uring: Uring, operation: int) -> None:
    assert outcome(uring, operation, 0) == -errno.EACCES


@pytest.mark.parametrize("flag", range(8))
def test_nor_one_with_a_flag(uring: Uring, flag: int) -> None:
    assert outcome(uring, WRITEV, 0, 1 << flag) in _REFUSED


@pytest.mark.parametrize("what", range(20))
def test_nothing_can_be_registered(uring: Uring, what: int) -> None:
    with pytest.raises(OSError) as caught:
        process.system_call(_REGISTER, uring.fd, what, None, 0)
    assert caught.value.errno in (errno.EACCES, errno.EBADFD)


def test_where_the_kernel_has_none_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(process, "system_call", refuse)
    with pytest.raises(PermissionError):
        Uring(8, WRITEV)


def test_it_cannot_be_given_to_another_process(uring: Uring) -> None:
    """So nobody can give a worker one that can do more. Linux 6.7, and stable ones since."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError):
        socket.send_fds(ours, [b"x"], [uring.fd])
