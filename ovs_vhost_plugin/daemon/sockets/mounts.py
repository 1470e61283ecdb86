# SPDX-License-Identifier: Apache-2.0
"""Tells mounts that the kernel itself serves, in which a lookup ends, from others.

A process may serve a FUSE file system and never answer: a lookup in it hangs until that process is
gone. `fusermount` lets any user mount one, and with `user_allow_other` in fuse.conf root can run
into it too. The mount of a file held with O_PATH can be found without asking the file's server:
statx(2) with an empty mask and AT_STATX_DONT_SYNC.
"""

import ctypes
import os
import select
import struct

_LOCAL = frozenset(
    {
        *("tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs"),
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "zfs", "jfs", "nilfs2"),
        *("overlay", "erofs", "squashfs"),
    }
)
"""File systems whose data is on this machine, and that only root mounts. Others may not answer."""

_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000
_STATX_BYTES, _STX_MNT_ID = 256, 144  # struct statx (linux/stat.h); stx_mnt_id since Linux 5.8

_libc = ctypes.CDLL(None, use_errno=True)


class Mounts:
    """The mounts that this process sees; they are read again when they have changed."""

    def __init__(self) -> None:
        self._list = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        # proc(5), /proc/pid/mounts: a change shows as an exceptional condition.
        self._changes.register(self._list, select.POLLPRI)
        self._kinds: dict[int, str] = {}
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        self._root = mount_of(root)
        os.close(root)

    def foreign(self, mount: int) -> str | None:
        """The kind of file system of a mount that may never answer; None for all others.

        `mount`: the `mount_of` a descriptor that is still open, so that no other mount has its
        number. The root itself may be of any kind: without it nothing here would run.
        """
        if mount == self._root:
            return None
        if mount not in self._kinds or self._changes.poll(0):
            self._read()
        kind = self._kinds.get(mount, "unknown")
        return None if kind in _LOCAL else kind

    def close(self) -> None:
        """Close the list of mounts."""
        os.close(self._list)

    def _read(self) -> None:
        self._changes.poll(0)  # changes up to here are in the list that is read now
        os.lseek(self._list, 0, os.SEEK_SET)
        text = b"".join(iter(lambda: os.read(self._list, 1 << 16), b""))
        self._kinds = dict(_entry(line) for line in text.decode(errors="replace").splitlines())


def mount_of(fd: int) -> int:
    """The number of the mount (proc(5), mountinfo, first field) that an open file is on."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0, found):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(struct.unpack_from("=Q", found, _STX_MNT_ID)[0])


def _entry(line: str) -> tuple[int, str]:
    """Number and kind: "36 35 98:0 / /mnt rw,noatime shared:1 - ext3 /dev/root rw"."""
    before, _, after = line.partition(" - ")
    return int(before.split(" ", 1)[0]), after.split(" ", 1)[0]
