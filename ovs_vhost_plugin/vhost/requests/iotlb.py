# SPDX-License-Identifier: Apache-2.0
"""The handler of VHOST_USER_IOTLB_MSG, and the messages by which the back-end asks for it.

Sections cited are those of vhost-user, "An IOTLB message" and "IOMMU support".
"""

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import Handling, InvalidateIotlb, UpdateIotlb
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.spec import IotlbAccess, IotlbType
from ovs_vhost_plugin.vhost.state import SessionState

_ADDRESS_SPACE = 1 << 64
_ALL_ACCESS = IotlbAccess.READ | IotlbAccess.WRITE


def iotlb_msg(_state: SessionState, payload: bytes, _fds: list[int]) -> Handling:
    """Take a translation, or give some up: then the rings use them no more when it is answered."""
    iova, size, user, access, kind = spec.IOTLB.unpack(payload)
    seen = f"{size:#x} bytes at {iova:#x}"
    # Of an invalidation nothing else is said: QEMU 7.2 leaves there what its stack had.
    said = (iova, user) if kind == IotlbType.UPDATE else (iova,)
    if max(said) + size > _ADDRESS_SPACE:
        raise PeerError(PeerErrorName.IOTLB_ADDRESS_WRAPS, seen)
    match kind:
        case IotlbType.UPDATE:
            if size == 0:
                raise PeerError(PeerErrorName.IOTLB_SIZE_ZERO, seen)
            if access & ~_ALL_ACCESS.value:
                raise PeerError(PeerErrorName.IOTLB_PERMISSIONS, f"{access:#x}")
            yield UpdateIotlb(iova, size, user, IotlbAccess(access))
        case IotlbType.INVALIDATE:
            # QEMU says the size as a mask and 1: all of the address space does not fit.
            yield InvalidateIotlb(iova, size or _ADDRESS_SPACE - iova)
        case _:
            raise PeerError(PeerErrorName.IOTLB_TYPE, str(kind))
    return None


def miss(iova: int, access: IotlbAccess) -> bytes:
    """The payload that asks for a translation of the byte at `iova`."""
    return spec.IOTLB.pack(iova, 0, 0, access, IotlbType.MISS)


def access_fail(iova: int, access: IotlbAccess) -> bytes:
    """The payload that says that the translation of `iova` does not allow what is needed."""
    return spec.IOTLB.pack(iova, 0, 0, access, IotlbType.ACCESS_FAIL)
