# SPDX-License-Identifier: Apache-2.0
"""What a session remembers of its front-end: acknowledged features, and a Vring for each ring."""

from dataclasses import dataclass
from enum import Enum

from ovs_vhost_plugin.vhost.features import Offer
from ovs_vhost_plugin.vhost.message import close_fds
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature


@dataclass(slots=True)
class Vring:
    """One ring as the front-end has set it up; addresses are the front-end's virtual ones.

    started/stopped and enabled/disabled are independent (vhost-user "Ring states"). The session
    owns the fds; -1 stands for none, and a started vring without a kick fd is to be polled.
    """

    index: int
    size: int = 0
    addressed: bool = False
    desc_user: int = 0
    avail_user: int = 0
    used_user: int = 0
    log_guest: int = 0
    flags: int = 0
    base: int = 0
    kick_fd: int = -1
    call_fd: int = -1
    err_fd: int = -1
    started: bool = False
    enabled: bool = False

    def ready(self) -> bool:
        """Whether all is there to process the ring, as enabled or as disabled."""
        return self.started and self.size > 0 and self.addressed

    def reset(self) -> int:
        """Begin anew, with the fds by which the front-end is called; return the kick fd or -1."""
        kick_fd = self.kick_fd
        fresh = Vring(self.index, call_fd=self.call_fd, err_fd=self.err_fd)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))
        return kick_fd

    def close(self) -> None:
        """Close the ring's fds."""
        fds = [fd for fd in (self.kick_fd, self.call_fd, self.err_fd) if fd >= 0]
        self.kick_fd = self.call_fd = self.err_fd = -1
        close_fds(fds)


class Postcopy(Enum):
    """How far a postcopy migration to here is (vhost-user "VHOST_USER_POSTCOPY_ADVISE")."""

    OFF = 0
    ADVISED = 1
    LISTENING = 2
    ENDED = 3


class State:
    """The state of a session, which the handlers of requests read and change."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.features = 0
        self.features_refused = False  # those that were last asked for
        self.protocol_features = 0
        self.status = 0
        self.needs_reset = False  # a ring broke, and the driver has not reset the device since
        self.postcopy = Postcopy.OFF
        self.bases_pending = False  # the front-end has not acknowledged where memory is mapped
        self.acknowledges = False  # the request under way is to be answered by REPLY_ACK
        self.reply_fds: tuple[int, ...] = ()  # of the answer under way; the device's
        self.vrings = [Vring(index) for index in range(2 * offer.queue_pairs)]

    def negotiated(self, feature: ProtocolFeature) -> bool:
        """Whether the front-end has acknowledged `feature`."""
        return bool(self.protocol_features & feature.mask)

    @property
    def packed(self) -> bool:
        """Whether the rings are packed ones."""
        return bool(self.features & Feature.RING_PACKED.mask)

    @property
    def started(self) -> bool:
        """Whether any vring is started."""
        return any(vring.started for vring in self.vrings)

    def close(self) -> None:
        """Close all fds; the device has stopped the rings."""
        for vring in self.vrings:
            vring.close()
