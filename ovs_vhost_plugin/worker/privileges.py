# SPDX-License-Identifier: Apache-2.0
"""Giving up privileges, before the first byte from a peer is read.

A worker has an unprivileged user id of its own, so that one taken over by its guest can neither
signal nor trace another one.
"""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_OPEN_FILES = 4096  # 256 vrings with three eventfds each, memory regions, and room


def drop(uid: int, gid: int) -> None:
    """Become `uid`:`gid` for good; capabilities go with the last user id that was 0.

    uid 0 keeps the user (a daemon that is not root has nothing to give away).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, hard), min(_OPEN_FILES, hard)))
    if uid == 0 or os.geteuid() != 0:
        return
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # A guest's memory has no place in a core file: it may hold its keys.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
