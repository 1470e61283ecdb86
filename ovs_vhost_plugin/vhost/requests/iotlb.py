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
    """Take a translation, or drop some; once answered, no ring uses the dropped ones."""
    iova, size, user, access, kind = spec.IOTLB.unpack(payload)
    seen = f"{size:#x} bytes at {iova:#x}"
    # An invalidation's other fields mean nothing: QEMU 7.2 leaves bytes of its stack there.
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
            # QEMU sends mask + 1, which for the whole address space overflows to 0.
            yield InvalidateIotlb(iova, size or _ADDRESS_SPACE - iova)
        case _:
            raise PeerError(PeerErrorName.IOTLB_TYPE, str(kind))
    return None


def miss(iova: int, access: IotlbAccess) -> bytes:
    """The payload that asks for a translation of the byte at `iova`."""
    return spec.IOTLB.pack(iova, 0, 0, access, IotlbType.MISS)


def access_fail(iova: int, access: IotlbAccess) -> bytes:
    """The payload that reports that the translation of `iova` does not allow `access`."""
    return spec.IOTLB.pack(iova, 0, 0, access, IotlbType.ACCESS_FAIL)
