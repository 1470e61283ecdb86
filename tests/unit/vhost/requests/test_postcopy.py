# SPDX-License-Identifier: Apache-2.0
"""POSTCOPY_ADVISE, LISTEN and END, and memory whose place the front-end is told."""

import pytest

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import FrontendRequest

R = FrontendRequest
USERFAULTFD = 77
"""Any number: the session never touches it."""
REGIONS = ((0, 0x1000, 0x7000_0000, 0), (0x1_0000_0000, 0x3000, 0x8000_0000, 0x1000))
BASES = (0x1111_0000, 0x2222_0000)
OK, REFUSED = spec.U64.pack(0), spec.U64.pack(1)


@pytest.fixture
def listening(peer):
    """A front-end that has said that the guest is here before its memory."""
    peer.execute = answer
    peer.send(R.POSTCOPY_ADVISE)
    assert peer.send(R.POSTCOPY_LISTEN, need_reply=True).payload == OK
    assert peer.effects == [effects.ListenPostcopy()]
    return peer


def answer(effect):
    """What a device would, which has mapped the regions at BASES."""
    match effect:
        case effects.AdvisePostcopy():
            return USERFAULTFD
        case effects.SetMemoryTable(regions):
            return BASES[: len(regions)]
        case effects.AddMemoryRegion(region):
            return (BASES[[r[0] for r in REGIONS].index(region.guest_address)],)
    return None


def table(memfd):
    """Payload and fds of SET_MEM_TABLE."""
    body = b"".join(spec.MEMORY_REGION.pack(*region) for region in REGIONS)
    fds = tuple(memfd(0x4000) for _ in REGIONS)
    return spec.MEMORY_HEADER.pack(len(REGIONS), 0) + body, fds


def test_advise_is_answered_with_an_fd_and_nothing_else(peer):
    peer.execute = answer
    assert peer.send(R.POSTCOPY_ADVISE) == Message(R.POSTCOPY_ADVISE, b"", 0x5, (USERFAULTFD,))
    assert peer.send(R.GET_FEATURES).fds == ()


def test_a_userfaultfd_that_there_is_not_is_an_answer_without_one(peer):
    def refuse(effect):
        if isinstance(effect, effects.AdvisePostcopy):
            raise PeerError(PeerErrorName.POSTCOPY_UNAVAILABLE)

    peer.execute = refuse
    assert peer.send(R.POSTCOPY_ADVISE) == Message(R.POSTCOPY_ADVISE, b"", 0x5)
    assert peer.effects[-1].error.name == PeerErrorName.POSTCOPY_UNAVAILABLE
    assert peer.send(R.POSTCOPY_LISTEN, need_reply=True).payload == REFUSED


def test_a_memory_table_is_answered_with_where_it_is_mapped(listening, memfd):
    payload, fds = table(memfd)
    reply = listening.send(R.SET_MEM_TABLE, payload, fds)
    assert reply.request == R.SET_MEM_TABLE and reply.flags == 0x5
    assert len(reply.payload) == len(payload)
    got = list(spec.MEMORY_REGION.iter_unpack(reply.payload[spec.MEMORY_HEADER.size :]))
    assert [(g, s, o) for g, s, _, o in got] == [(g, s, o) for g, s, _, o in REGIONS]
    assert tuple(base for _, _, base, _ in got) == BASES


def test_so_is_each_region_that_is_added(listening, memfd):
    for region, base in zip(REGIONS, BASES, strict=True):
        payload = spec.SINGLE_REGION.pack(0, *region)
        reply = listening.send(R.ADD_MEM_REG, payload, (memfd(0x4000),))
        guest, size, _, offset = region
        assert reply.payload == spec.SINGLE_REGION.pack(0, guest, size, base, offset)


@pytest.mark.parametrize("empty", [b"", bytes(8)], ids=["as specified", "as QEMU does"])
@pytest.mark.parametrize("request_", [R.SET_MEM_TABLE, R.ADD_MEM_REG])
def test_rings_wait_for_the_acknowledgement(listening, memfd, request_, empty):
    listening.send(R.SET_MEM_TABLE, *table(memfd))
    assert listening.session.bases_pending
    assert listening.send(request_, empty) is None
    assert listening.effects == [effects.AcknowledgeBases()]
    assert not listening.session.bases_pending


def test_who_asks_for_an_acknowledgement_gets_that(listening, memfd):
    """QEMU 7.2's second queue pair knows nothing of the postcopy that the first one began."""
    reply = listening.send(R.SET_MEM_TABLE, *table(memfd), need_reply=True)
    assert reply.payload == OK
    assert not listening.session.bases_pending


def test_memory_that_is_refused_leaves_nothing_to_acknowledge(listening, memfd):
    def refuse(_effect):
        raise PeerError(PeerErrorName.POSTCOPY_MEMORY_KIND)

    listening.execute = refuse
    with pytest.raises(PeerError) as caught:
        listening.send(R.SET_MEM_TABLE, *table(memfd))
    assert caught.value.name == PeerErrorName.POSTCOPY_MEMORY_KIND
    assert not listening.session.bases_pending


def test_memory_that_is_refused_leaves_what_came_before_to_be_acknowledged(listening, memfd):
    listening.send(R.SET_MEM_TABLE, *table(memfd))

    def refuse(_effect):
        raise PeerError(PeerErrorName.POSTCOPY_MEMORY_KIND)

    listening.execute = refuse
    with pytest.raises(PeerError):
        listening.send(R.ADD_MEM_REG, spec.SINGLE_REGION.pack(0, *REGIONS[0]), (memfd(0x4000),))
    assert listening.session.bases_pending


@pytest.mark.parametrize(
    ("payload", "fds", "name"),
    [
        (bytes(8), 1, PeerErrorName.PAYLOAD_SIZE),
        (spec.U64.pack(1), 0, PeerErrorName.PAYLOAD_SIZE),
        (bytes(40), 0, PeerErrorName.FDS_MISSING),
    ],
)
def test_what_is_neither_a_region_nor_an_acknowledgement(listening, memfd, payload, fds, name):
    with pytest.raises(PeerError) as caught:
        listening.send(R.ADD_MEM_REG, payload, tuple(memfd(8) for _ in range(fds)))
    assert caught.value.name == name


def test_an_acknowledgement_of_nothing_is_no_region(peer):
    with pytest.raises(PeerError) as caught:
        peer.send(R.ADD_MEM_REG, bytes(8))
    assert caught.value.name == PeerErrorName.PAYLOAD_SIZE
    with pytest.raises(PeerError) as caught:
        peer.send(R.SET_MEM_TABLE, bytes(8))
    assert caught.value.name == PeerErrorName.REGIONS_NONE


@pytest.mark.parametrize("need_reply", [False, True])
def test_the_end_is_always_answered_and_memory_is_as_before(listening, memfd, need_reply):
    listening.send(R.SET_MEM_TABLE, *table(memfd))
    listening.send(R.SET_MEM_TABLE)
    assert listening.send(R.POSTCOPY_END, need_reply=need_reply).payload == OK
    assert listening.effects == [effects.EndPostcopy()]
    assert listening.send(R.SET_MEM_TABLE, *table(memfd)) is None
    assert not listening.session.bases_pending


def test_an_end_before_the_acknowledgement_holds_no_ring(listening, memfd):
    listening.send(R.SET_MEM_TABLE, *table(memfd))
    listening.send(R.POSTCOPY_END)
    assert listening.effects == [effects.EndPostcopy(), effects.AcknowledgeBases()]
    assert not listening.session.bases_pending


def test_each_may_be_said_once_for_each_queue_pair(listening):
    """As QEMU 7.2 does; only the first of each has consequences."""
    assert listening.send(R.POSTCOPY_ADVISE).fds == (USERFAULTFD,)
    assert listening.send(R.POSTCOPY_LISTEN, need_reply=True).payload == OK
    assert listening.effects == []
    listening.send(R.POSTCOPY_END)
    assert listening.send(R.POSTCOPY_END).payload == OK
    assert listening.effects == []


def wait_for_guest(peer, pairs, *, asks):
    """What QEMU sends while it waits for a migration, as recorded of 7.2 and (`asks`) 10.0.

    Less what comes with an fd: SET_BACKEND_REQ_FD, SET_VRING_CALL and SET_VRING_ERR.
    """
    for pair in range(pairs):
        peer.send(R.GET_FEATURES)
        peer.send(R.GET_PROTOCOL_FEATURES)
        peer.send(R.SET_PROTOCOL_FEATURES, spec.U64.pack(0x1F12F))
        if not pair:
            peer.send(R.GET_QUEUE_NUM)
        peer.send(R.GET_MAX_MEM_SLOTS)
        if not pair:
            peer.send(R.SET_OWNER)
        peer.send(R.GET_FEATURES)
    if asks:
        peer.send(R.RESET_DEVICE)
    for index in range(2 * pairs):  # the guest's driver is to switch on the others
        peer.send(R.SET_VRING_ENABLE, spec.VRING_STATE.pack(index, index < 2), need_reply=asks)


@pytest.mark.parametrize(
    ("pairs", "asks", "granted"),
    [(1, False, [True]), (1, True, [True]), (2, False, [True, True]), (2, True, [True, False])],
    ids=["QEMU 7.2, 1 pair", "QEMU 10.0, 1 pair", "QEMU 7.2, 2 pairs", "QEMU 10.0, 2 pairs"],
)
def test_a_front_end_that_would_lose_its_guest_is_refused_before(peer, pairs, asks, granted):
    peer.execute = answer
    wait_for_guest(peer, pairs, asks=asks)
    replies = [peer.send(R.POSTCOPY_ADVISE) for _ in range(pairs)]
    assert [reply.fds == (USERFAULTFD,) for reply in replies] == granted
    assert all(reply.payload == b"" for reply in replies)
    if not granted[-1]:
        assert peer.effects[-1].error.name == PeerErrorName.POSTCOPY_SEVERAL_PAIRS


def test_of_a_front_end_that_has_not_shown_which_it_is_the_second_pair_is_refused(peer):
    """As it comes back when a worker is replaced while QEMU waits."""
    peer.execute = answer
    assert peer.send(R.POSTCOPY_ADVISE).fds == (USERFAULTFD,)
    assert peer.send(R.POSTCOPY_ADVISE).fds == ()


@pytest.mark.parametrize(
    ("before", "request_", "name"),
    [
        ([], R.POSTCOPY_LISTEN, PeerErrorName.POSTCOPY_NOT_ADVISED),
        ([], R.POSTCOPY_END, PeerErrorName.POSTCOPY_NOT_LISTENING),
        ([R.POSTCOPY_ADVISE], R.POSTCOPY_END, PeerErrorName.POSTCOPY_NOT_LISTENING),
    ],
)
def test_what_comes_out_of_order_is_named(peer, before, request_, name):
    peer.execute = answer
    for one in before:
        peer.send(one)
    assert peer.send(request_, need_reply=True).payload == REFUSED
    assert peer.effects[-1].error.name == name


@pytest.mark.parametrize("request_", [R.POSTCOPY_ADVISE, R.POSTCOPY_LISTEN, R.POSTCOPY_END])
def test_without_a_userfaultfd_it_is_not_offered(request_):
    session = Session(offer(1, None, postcopy=False))
    try:
        error = next(session.receive(Message(request_))).error  # where the answer tells it
    except PeerError as raised:
        error = raised
    assert error.name == PeerErrorName.PROTOCOL_FEATURE_MISSING
