# SPDX-License-Identifier: Apache-2.0
"""The vhost-user session: a table of requests, and the one path that every request takes.

Sans-IO: `Session.receive` is a generator that yields effects for the device and returns the
reply. The table's columns are the conditions for handling a request (size of its payload, number
and kind of its fds, a protocol feature). They are checked in one place, so the handlers see only
messages of the right shape.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.effects import Effect, Handling, Refused
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.fds.kind import Kind, Rule, require
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.requests import backend as backend_requests
from ovs_vhost_plugin.vhost.requests import config as config_requests
from ovs_vhost_plugin.vhost.requests import device as requests
from ovs_vhost_plugin.vhost.requests import inflight as inflight_requests
from ovs_vhost_plugin.vhost.requests import iotlb as iotlb_requests
from ovs_vhost_plugin.vhost.requests import postcopy as postcopy_requests
from ovs_vhost_plugin.vhost.requests import state as state_requests
from ovs_vhost_plugin.vhost.requests import status as status_requests
from ovs_vhost_plugin.vhost.requests import vring as vring_requests
from ovs_vhost_plugin.vhost.spec import FrontendRequest, ProtocolFeature
from ovs_vhost_plugin.vhost.state import SessionState

# A handler removes from the list the fds that it keeps or passes on; the others are closed. It
# returns the payload of the request's own reply, or None for a request without one.
Handler = Callable[[SessionState, bytes, list[int]], Handling]

_NO_FDS = (0, 0)
_ONE_FD = (1, 1)
_FD_OR_FLAG = (0, 1)  # the payload's bit 8 says which (vhost-user VHOST_USER_SET_VRING_KICK)
_FD_OR_BASES = (0, 1)  # without an fd it acknowledges bases: the handler checks
_UNUSED_FD = (0, 1)  # some front-ends send one (vhost-user VHOST_USER_REM_MEM_REG)
_REGION_FDS = (0, spec.MAX_REGIONS)  # one for each region: the handler compares

_EVENTFD = Rule(Kind.EVENTFD, PeerErrorName.VRING_FD_NOT_EVENTFD)
_SOCKET = Rule(Kind.SOCKET, PeerErrorName.BACKEND_FD_NOT_SOCKET)
_PIPE = Rule(Kind.PIPE, PeerErrorName.DEVICE_STATE_NOT_A_PIPE)
_REGION = Rule(Kind.MEMORY, PeerErrorName.REGION_FILE_KIND)
_LOG = Rule(Kind.MEMORY, PeerErrorName.LOG_FILE_KIND)
_INFLIGHT = Rule(Kind.MEMORY, PeerErrorName.INFLIGHT_FILE_KIND)


@dataclass(frozen=True, slots=True)
class Row:
    """A request's required shape, and its handler.

    handler: see Handler.
    size: bytes of the payload; None where it depends on the payload and the handler checks it.
    fds: least and most fds beside the message.
    takes: the kind of fd required; None: fds are closed and not looked at.
    needs: protocol feature that must have been offered: the specification makes these requests
        legal by its presence in the answer to GET_PROTOCOL_FEATURES.
    answers: the request has a reply of its own.
    refusal: that reply's payload for a refusal; None where the reply cannot express one.
    advisory: nothing depends on the request; a refusal is only counted.
    """

    handler: Handler
    size: int | None
    fds: tuple[int, int] = _NO_FDS
    takes: Rule | None = None
    needs: ProtocolFeature | None = None
    answers: bool = False
    refusal: bytes | None = None
    advisory: bool = False


_STATE = spec.VRING_STATE.size
_U64 = spec.U64.size
_REFUSED = spec.U64.pack(1)  # any number but 0

TABLE: dict[int, Row] = {
    FrontendRequest.GET_FEATURES: Row(requests.get_features, 0, answers=True),
    FrontendRequest.SET_FEATURES: Row(requests.set_features, _U64),
    FrontendRequest.GET_PROTOCOL_FEATURES: Row(requests.get_protocol_features, 0, answers=True),
    FrontendRequest.SET_PROTOCOL_FEATURES: Row(requests.set_protocol_features, _U64),
    FrontendRequest.SET_OWNER: Row(requests.set_owner, 0),
    FrontendRequest.RESET_OWNER: Row(requests.reset_owner, 0),
    FrontendRequest.SET_MEM_TABLE: Row(requests.set_mem_table, None, _REGION_FDS, _REGION),
    FrontendRequest.SET_LOG_BASE: Row(
        requests.set_log_base, spec.LOG.size, _ONE_FD, _LOG, ProtocolFeature.LOG_SHMFD
    ),
    FrontendRequest.SET_VRING_NUM: Row(vring_requests.set_num, _STATE),
    FrontendRequest.SET_VRING_ADDR: Row(vring_requests.set_addr, spec.VRING_ADDR.size),
    FrontendRequest.SET_VRING_BASE: Row(vring_requests.set_base, _STATE),
    FrontendRequest.GET_VRING_BASE: Row(vring_requests.get_base, _STATE, answers=True),
    FrontendRequest.SET_VRING_KICK: Row(vring_requests.set_kick, _U64, _FD_OR_FLAG, _EVENTFD),
    FrontendRequest.SET_VRING_CALL: Row(vring_requests.set_call, _U64, _FD_OR_FLAG, _EVENTFD),
    FrontendRequest.SET_VRING_ERR: Row(vring_requests.set_err, _U64, _FD_OR_FLAG, _EVENTFD),
    FrontendRequest.SET_VRING_ENABLE: Row(vring_requests.set_enable, _STATE),
    FrontendRequest.VRING_KICK: Row(
        vring_requests.kick, _STATE, needs=ProtocolFeature.INBAND_NOTIFICATIONS
    ),
    FrontendRequest.GET_QUEUE_NUM: Row(
        requests.get_queue_num, 0, needs=ProtocolFeature.MQ, answers=True
    ),
    FrontendRequest.SEND_RARP: Row(
        requests.send_rarp, _U64, needs=ProtocolFeature.RARP, advisory=True
    ),
    FrontendRequest.NET_SET_MTU: Row(requests.net_set_mtu, _U64, needs=ProtocolFeature.MTU),
    FrontendRequest.GET_CONFIG: Row(
        config_requests.get_config, None, needs=ProtocolFeature.CONFIG, answers=True, refusal=b""
    ),
    FrontendRequest.SET_CONFIG: Row(config_requests.set_config, None, needs=ProtocolFeature.CONFIG),
    FrontendRequest.SET_BACKEND_REQ_FD: Row(
        backend_requests.set_backend_req_fd, 0, _ONE_FD, _SOCKET, ProtocolFeature.BACKEND_REQ
    ),
    FrontendRequest.IOTLB_MSG: Row(iotlb_requests.iotlb_msg, spec.IOTLB.size),
    FrontendRequest.RESET_DEVICE: Row(
        status_requests.reset_device, 0, needs=ProtocolFeature.RESET_DEVICE
    ),
    FrontendRequest.SET_STATUS: Row(status_requests.set_status, _U64, needs=ProtocolFeature.STATUS),
    FrontendRequest.GET_STATUS: Row(
        status_requests.get_status, 0, needs=ProtocolFeature.STATUS, answers=True
    ),
    FrontendRequest.GET_MAX_MEM_SLOTS: Row(
        requests.get_max_mem_slots, 0, needs=ProtocolFeature.CONFIGURE_MEM_SLOTS, answers=True
    ),
    FrontendRequest.ADD_MEM_REG: Row(
        requests.add_mem_reg,
        None,
        _FD_OR_BASES,
        _REGION,
        ProtocolFeature.CONFIGURE_MEM_SLOTS,
    ),
    FrontendRequest.REM_MEM_REG: Row(
        requests.rem_mem_reg,
        spec.SINGLE_REGION.size,
        _UNUSED_FD,
        None,
        ProtocolFeature.CONFIGURE_MEM_SLOTS,
    ),
    FrontendRequest.GET_INFLIGHT_FD: Row(
        inflight_requests.get_inflight_fd,
        None,
        needs=ProtocolFeature.INFLIGHT_SHMFD,
        answers=True,
        refusal=bytes(spec.INFLIGHT_PADDED),  # no bytes, and without an fd
    ),
    FrontendRequest.SET_INFLIGHT_FD: Row(
        inflight_requests.set_inflight_fd, None, _ONE_FD, _INFLIGHT, ProtocolFeature.INFLIGHT_SHMFD
    ),
    FrontendRequest.SET_DEVICE_STATE_FD: Row(
        state_requests.set_device_state_fd,
        spec.DEVICE_STATE.size,
        _ONE_FD,
        _PIPE,
        ProtocolFeature.DEVICE_STATE,
        answers=True,
        refusal=spec.U64.pack(spec.DEVICE_STATE_NO_FD | 1),
    ),
    FrontendRequest.CHECK_DEVICE_STATE: Row(
        state_requests.check_device_state,
        0,
        needs=ProtocolFeature.DEVICE_STATE,
        answers=True,
        refusal=_REFUSED,
    ),
    FrontendRequest.POSTCOPY_ADVISE: Row(
        postcopy_requests.advise,
        0,
        needs=ProtocolFeature.PAGEFAULT,
        answers=True,
        refusal=b"",  # without an fd
    ),
    FrontendRequest.POSTCOPY_LISTEN: Row(
        postcopy_requests.listen, 0, needs=ProtocolFeature.PAGEFAULT
    ),
    FrontendRequest.POSTCOPY_END: Row(
        postcopy_requests.end, 0, needs=ProtocolFeature.PAGEFAULT, answers=True, refusal=_REFUSED
    ),
}

# Requests of other kinds of device. All others missing from the table belong to protocol features
# that are not offered.
_NOT_FOR_NET = frozenset(
    {
        FrontendRequest.CREATE_CRYPTO_SESSION,
        FrontendRequest.CLOSE_CRYPTO_SESSION,
        FrontendRequest.GPU_SET_SOCKET,
        FrontendRequest.GET_SHARED_OBJECT,
        FrontendRequest.GET_SHMEM_CONFIG,
    }
)


class Session(SessionState):
    """One front-end's session, from its first message to `close()`."""

    def receive(self, message: Message) -> Generator[Effect, object, Message | None]:
        """Handle one message: yield effects, return the reply if there is one.

        Takes the message's fds; the device owns those of the reply. The device answers an effect
        with its result, or throws in the PeerError that executing it raised. A PeerError that
        leaves the generator means that the connection has to be closed.
        """
        fds = list(message.fds)
        self.acknowledges = self._wants_acknowledgement(message)
        self.reply_fds = ()
        try:
            try:
                payload = yield from self._handle(message, fds)
            except PeerError as error:
                payload = yield from self._refuse(message, error)
        finally:
            close_fds(fds)
        if message.request == FrontendRequest.SET_PROTOCOL_FEATURES:
            # The request may negotiate REPLY_ACK and ask for its own acknowledgement (User Mode
            # Linux).
            self.acknowledges = self._wants_acknowledgement(message)
        if payload is None and self.acknowledges:
            payload = spec.U64.pack(0)
        if payload is None:
            return None
        return Message(message.request, payload, spec.VERSION | spec.REPLY, self.reply_fds)

    def _handle(self, message: Message, fds: list[int]) -> Handling:
        row = self._row(message.request)
        self._check_shape(message, row)
        self._check_kinds(message, row)
        return (yield from row.handler(self, message.payload, fds))

    def _row(self, number: int) -> Row:
        """The request's row; PeerError if there is none, or its protocol feature is missing."""
        try:
            request = FrontendRequest(number)
        except ValueError:
            raise PeerError(PeerErrorName.REQUEST_UNKNOWN, str(number)) from None
        if request in _NOT_FOR_NET:
            raise PeerError(PeerErrorName.REQUEST_NOT_FOR_NET, request.name)
        if request not in TABLE:
            raise PeerError(PeerErrorName.REQUEST_NOT_OFFERED, request.name)
        row = TABLE[request]
        if row.needs is not None and not self.offer.protocol_features & row.needs.mask:
            detail = f"{request.name} needs {row.needs.name}"
            raise PeerError(PeerErrorName.PROTOCOL_FEATURE_MISSING, detail)
        return row

    @staticmethod
    def _check_shape(message: Message, row: Row) -> None:
        if row.size is not None and len(message.payload) != row.size:
            detail = f"request {message.request}: {len(message.payload)}, not {row.size} bytes"
            raise PeerError(PeerErrorName.PAYLOAD_SIZE, detail)
        least, most = row.fds
        if len(message.fds) < least:
            raise PeerError(PeerErrorName.FDS_MISSING, f"request {message.request}")
        if len(message.fds) > most:
            detail = f"request {message.request}: {len(message.fds)}"
            raise PeerError(PeerErrorName.FDS_UNEXPECTED, detail)

    def _check_kinds(self, message: Message, row: Row) -> None:
        """Check the kinds of the fds before any other use of them: see `fds/kind.py`."""
        if row.takes is None or (row.takes.kind is Kind.MEMORY and self.offer.any_memory):
            return
        for fd in message.fds:
            require(fd, row.takes)

    def _wants_acknowledgement(self, message: Message) -> bool:
        """Whether to answer with a u64, 0 for success (vhost-user "REPLY_ACK")."""
        return message.need_reply and self.negotiated(ProtocolFeature.REPLY_ACK)

    def _refuse(self, message: Message, error: PeerError) -> Handling:
        """Tell the front-end if the protocol allows it; otherwise end the connection."""
        row = TABLE.get(message.request)
        refusal = None if row is None else row.refusal
        if self._wants_acknowledgement(message) and not (row and row.answers):
            refusal = _REFUSED
        if error.fatal or (refusal is None and not (row and row.advisory)):
            raise error
        self.refused = True
        # An error that is kept must not keep the frames it passed, with the mappings in them.
        yield Refused(error.with_traceback(None))
        return refusal
