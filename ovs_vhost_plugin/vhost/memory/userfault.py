# SPDX-License-Identifier: Apache-2.0
"""A userfaultfd: memory may be touched while its pages are still on their way.

vhost-user "Postcopy migration" (VHOST_USER_POSTCOPY_ADVISE): a thread that touches a missing page
waits in the kernel until the front-end, which has the userfaultfd too, has put the page into the
shared file and wakes the thread. The system calls that move frames wait in the kernel's own code;
for such faults an unprivileged process may not make a userfaultfd by userfaultfd(2). A process that
holds /dev/userfaultfd open may (ioctl_userfaultfd(2), Linux 6.1): open(2) checked permission.

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
    """The device's fd; any process that has it may make userfaultfds of itself.

    Raises OSError where there is no such device, or no permission to open it.
    """
    return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)


class Userfault:
    """A userfaultfd of this process; this object owns `fd`, which the front-end gets too."""

    def __init__(self, device: int) -> None:
        """Make a userfaultfd by `device`, an open DEVICE. Raises OSError."""
        self.fd = fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.ioctl(self.fd, _UFFDIO_API, bytearray(_VERSION.pack(_API, 0, 0)))
        except OSError:
            self.close()
            raise

    def catch(self, view: Bytes) -> None:
        """Make threads that touch a missing page of `view`'s mapping wait for the page.

        Raises OSError where userfaultfd does not serve the memory (files on a disk).
        """
        request = _REGISTER.pack(*extent(view), _MODE_MISSING, 0)
        fcntl.ioctl(self.fd, _UFFDIO_REGISTER, bytearray(request))

    def release(self, view: Bytes) -> None:
        """End `catch`, as all pages have come. Threads that still wait find zeros."""
        fcntl.ioctl(self.fd, _UFFDIO_UNREGISTER, RANGE.pack(*extent(view)))

    def close(self) -> None:
        """Close this process's fd; registered memory is released when the last one is closed."""
        os.close(self.fd)


def extent(view: Bytes) -> tuple[int, int]:
    """Address and bytes, both whole pages, of the mapping that `view` is a part of."""
    whole = view.base if isinstance(view.base, type(view)) else view
    return address(whole), -(-len(whole) // mmap.PAGESIZE) * mmap.PAGESIZE
