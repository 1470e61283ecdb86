# SPDX-License-Identifier: Apache-2.0
"""A userfaultfd: memory whose pages are still on their way, and may be touched all the same.

vhost-user "Postcopy migration" (VHOST_USER_POSTCOPY_ADVISE): whoever touches a page that is not
there waits in the kernel until the front-end, which has the userfaultfd too, has put the page into
the shared file and wakes it. The system calls that move frames wait in the kernel's own code, for
which an unprivileged process may not make a userfaultfd by userfaultfd(2). But whoever holds
/dev/userfaultfd open may (ioctl_userfaultfd(2), Linux 6.1): permission was checked by open(2).

Numbers are those of linux/userfaultfd.h.
"""

import fcntl
import mmap
import os
from struct import Struct

from ovs_vhost_plugin.vhost.memory.mapping import Bytes, address

DEVICE = "/dev/userfaultfd"

_API = 0xAA
_USERFAULTFD_IOC_NEW = 0xAA00
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01
_UFFDIO_WAKE = 0x8010AA02
_MODE_MISSING = 1
_VERSION = Struct("=QQQ")  # api, features, ioctls
_REGISTER = Struct("=QQQQ")  # start, length, mode, ioctls
RANGE = Struct("=QQ")
"""Start and length of memory."""


def open_device() -> int:
    """The device's fd, by which any process that has it may make userfaultfds of itself.

    Raises OSError where there is no such device, or no permission to open it.
    """
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)


class Userfault:
    """A userfaultfd of this process; `fd` is for the front-end too, and stays this object's."""

    def __init__(self, device: int) -> None:
        """Make one by `device`, an open DEVICE. Raises OSError."""
        self.fd = fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(self.fd, _UFFDIO_API, bytearray(_VERSION.pack(_API, 0, 0)))
        except OSError:
            self.close()
            raise

    def catch(self, view: Bytes) -> None:
        """Have whoever touches a missing page of the mapping that `view` is of wait for it.

        Raises OSError where the memory is none that userfaultfd serves (files on a disk).
        """
        request = _REGISTER.pack(*extent(view), _MODE_MISSING, 0)
        fcntl.ioctl(self.fd, _UFFDIO_REGISTER, bytearray(request))

    def release(self, view: Bytes) -> None:
        """End that: all pages have come. Whoever still waits finds zeros."""
        fcntl.ioctl(self.fd, _UFFDIO_UNREGISTER, RANGE.pack(*extent(view)))

    def close(self) -> None:
        """Close this process's fd; registered memory is released when the last one is closed."""
        os.close(self.fd)


def extent(view: Bytes) -> tuple[int, int]:
    """Address and bytes, both whole pages, of the mapping that `view` is a part of."""
    whole = view.base if isinstance(view.base, type(view)) else view
    return address(whole), -(-len(whole) // mmap.PAGESIZE) * mmap.PAGESIZE
