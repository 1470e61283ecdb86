# SPDX-License-Identifier: Apache-2.0
"""A session's state: acknowledged features, and a VringState for each ring."""

from dataclasses import dataclass
from enum import Enum

from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.features import Nic, Offer
from ovs_vhost_plugin.vhost.net_config import NetConfig
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature


@dataclass(slots=True)
class VringState:
    """One ring as the front-end has set it up; addresses are the front-end's virtual ones.

    started/stopped and enabled/disabled are independent (vhost-user "Ring states"). The session
    owns the fds; -1 stands for none, and a started vring without a kick fd is to be polled.

    *_told: the front-end has sent this setting. SET_VRING_KICK, _CALL or _ERR may come with or
    without an fd; an fd that the front-end did not send is our own, for messages (vhost-user
    "In-band notifications"). A ring does not run until SET_VRING_ENABLE has come: a disabled ring
    would discard frames, and Cloud Hypervisor enables rings that have frames to send only after
    it started them. A ring without SET_VRING_BASE starts at its beginning, which for a packed
    ring is not base 0 (`packed_base.py`).
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
    base_told: bool = False
    kick_told: bool = False
    call_told: bool = False
    err_told: bool = False
    enable_told: bool = False
    started: bool = False
    enabled: bool = False

    def ready(self) -> bool:
        """Whether the ring has every setting that processing needs, enabled or disabled."""
        return self.started and self.enable_told and self.size > 0 and self.addressed

    @property
    def inband_kick(self) -> bool:
        """Whether VRING_KICK messages wake the ring."""
        return self.kick_fd >= 0 and not self.kick_told

    @property
    def inband_call(self) -> bool:
        """Whether calls go out as messages."""
        return self.call_fd >= 0 and not self.call_told

    @property
    def inband_err(self) -> bool:
        """Whether an error goes out as a message."""
        return self.err_fd >= 0 and not self.err_told

    def reset(self) -> int:
        """Forget all but the call and error fds; return the kick fd or -1."""
        kick_fd = self.kick_fd
        fresh = VringState(
            self.index,
            call_fd=self.call_fd,
            err_fd=self.err_fd,
            call_told=self.call_told,
            err_told=self.err_told,
        )
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))
        return kick_fd

    def close(self) -> None:
        """Close the ring's fds."""
        fds = [fd for fd in (self.kick_fd, self.call_fd, self.err_fd) if fd >= 0]
        self.kick_fd = self.call_fd = self.err_fd = -1
        close_fds(fds)


class PostcopyPhase(Enum):
    """Phase of a postcopy migration to this host (vhost-user "VHOST_USER_POSTCOPY_ADVISE")."""

    OFF = 0
    ADVISED = 1
    LISTENING = 2
    ENDED = 3


class SessionState:
    """The state of a session, which the handlers of requests read and change."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.features = 0
        self.features_refused = False  # the last SET_FEATURES was refused
        self.protocol_features = 0
        self.status = 0
        self.needs_reset = False  # a ring broke, and the driver has not reset the device since
        nic = offer.nic or Nic()
        self.link_up = nic.link_up
        self.mac = nic.mac or bytes(6)
        self.port_mtu = offer.mtu or 0
        self.guest_mtu: int | None = None  # the MTU that the guest's driver has taken
        self.postcopy = PostcopyPhase.OFF
        self.bases_pending = False  # the front-end has not acknowledged where memory is mapped
        self.counted_pairs = False  # the front-end has sent GET_QUEUE_NUM
        self.sent_memory = False  # the front-end has sent guest memory
        self.refused = False  # a request was refused
        self.enables_unasked = False  # SET_VRING_ENABLE came without NEED_REPLY
        self.keeps_inflight = False  # the front-end has sent SET_INFLIGHT_FD
        self.acknowledges = False  # the request under way is to be answered by REPLY_ACK
        self.reply_fds: tuple[int, ...] = ()  # fds of the reply under way; the device owns them
        self.vrings = [VringState(index) for index in range(2 * offer.queue_pairs)]

    def negotiated(self, feature: ProtocolFeature) -> bool:
        """Whether the front-end has acknowledged `feature`."""
        return bool(self.protocol_features & feature.mask)

    @property
    def net_config(self) -> NetConfig:
        """The NIC's current configuration space."""
        mtu = self.port_mtu if self.guest_mtu is None else self.guest_mtu
        return NetConfig(self.mac, self.link_up, self.offer.queue_pairs, mtu)

    def follow_port(self, *, link_up: bool, mtu: int | None) -> bool:
        """Take the port's new link and MTU; return whether the configuration space changed.

        An MTU that was not offered has no field in it.
        """
        before = self.net_config
        self.link_up = link_up
        if mtu is not None and self.offer.mtu is not None:
            self.port_mtu = mtu
        return self.net_config != before

    @property
    def packed(self) -> bool:
        """Whether the rings are packed ones."""
        return bool(self.features & Feature.RING_PACKED.mask)

    @property
    def set_up(self) -> bool:
        """Whether the front-end has begun to set up its memory or a vring."""
        return self.sent_memory or any(vring.enabled or vring.size for vring in self.vrings)

    @property
    def started(self) -> bool:
        """Whether any vring is started."""
        return any(vring.started for vring in self.vrings)

    def close(self) -> None:
        """Close all fds; the device has stopped the rings."""
        for vring in self.vrings:
            vring.close()
