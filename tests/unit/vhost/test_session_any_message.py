# SPDX-License-Identifier: Apache-2.0
"""Random messages in random order: nothing but PeerError, no fd lost, no impossible state."""

import os
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ovs_vhost_plugin.vhost import effects, spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.features import Nic, offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import Session
from ovs_vhost_plugin.vhost.spec import FrontendRequest

PAIRS = 2
EDGES = [0, 1, 2, 3, 4, 68, 255, 256, 257, 0x1000, 0xFFFF, 0x10000, 2**31, 2**32 - 1]
U32 = st.sampled_from(EDGES) | st.integers(0, 2**32 - 1)
U64 = st.sampled_from([*EDGES, 2**63, 2**64 - 1, 2**64 - 4096]) | st.integers(0, 2**64 - 1)
INDEX = st.integers(0, 2 * PAIRS)
ALIGNED = st.integers(0, 2**20).map(lambda n: n * 16)
OFFER = offer(PAIRS, 1500, nic=Nic())
POSTCOPY_ADVISE = FrontendRequest.POSTCOPY_ADVISE
USERFAULTFD = 9999  # which nobody opens: it stays the device's


def packed(layout, *fields):
    return st.tuples(*fields).map(lambda values: layout.pack(*values))


def regions(count):
    return st.lists(
        packed(spec.MEMORY_REGION, U64, U64, U64, U64), min_size=count, max_size=count
    ).map(lambda parts: spec.MEMORY_HEADER.pack(count, 0) + b"".join(parts))


SUBSET = st.integers(0, 2**64 - 1).map(lambda bits: bits & OFFER.features)
PROTOCOL_SUBSET = st.integers(0, 2**21).map(lambda bits: bits & OFFER.protocol_features)
FILE = st.builds(lambda index, none: index | none << 8, INDEX, st.booleans())
PAYLOADS = st.one_of(
    st.just(b""),
    packed(spec.VRING_STATE, INDEX, st.sampled_from([0, 1, 64, 256]) | U32),
    packed(spec.VRING_ADDR, INDEX, st.sampled_from([0, 1, 2]), ALIGNED, ALIGNED, ALIGNED, U64),
    packed(spec.U64, SUBSET | PROTOCOL_SUBSET | FILE | U64),
    packed(spec.LOG, U64, U64),
    packed(spec.SINGLE_REGION, U64, U64, U64, U64, U64),
    packed(spec.DEVICE_STATE, st.integers(0, 2), st.integers(0, 1)),
    packed(spec.CONFIG, st.integers(0, 9), st.just(0), st.integers(0, 1)),
    st.integers(0, 9).flatmap(regions),
    st.binary(max_size=300),
)
REQUESTS = st.sampled_from(FrontendRequest) | U32


def close(effect):
    """What a device does with the fds of an effect it has done with."""
    fds = effect.fds if isinstance(effect, effects.SetMemoryTable) else ()
    fds += (effect.fd,) if hasattr(effect, "fd") else ()
    for fd in fds:
        os.close(fd)


def answer_to(effect, answer):
    """What a device answers; only some effects want more than any answer."""
    match effect:
        case effects.AdvisePostcopy():
            return USERFAULTFD
        case effects.SetMemoryTable(regions):
            return tuple(region.guest_address for region in regions)
        case effects.AddMemoryRegion(region):
            return (region.guest_address,)
    return answer


def count_fds():
    with os.scandir("/proc/self/fd") as entries:
        return sum(1 for _ in entries)


class AnyFrontEnd(RuleBasedStateMachine):
    """A front-end that sends anything, and a device that refuses effects at random."""

    @initialize()
    def connect(self):
        self.before = count_fds()
        self.connect_again()

    def connect_again(self):
        self.session = Session(OFFER)
        for request, value in (
            (FrontendRequest.SET_PROTOCOL_FEATURES, OFFER.protocol_features),
            (FrontendRequest.SET_FEATURES, OFFER.features),
        ):
            list(self.session.receive(Message(request, spec.U64.pack(value))))

    @rule(
        request=REQUESTS,
        payload=PAYLOADS,
        fds=st.sampled_from([0, 0, 1, 1, 2, 8]),
        need_reply=st.booleans(),
        refuses=st.sampled_from([False, False, False, True]),
        answer=st.sampled_from([None, 7]),
    )
    def send(self, request, payload, fds, need_reply, refuses, answer):
        flags = spec.VERSION | (spec.NEED_REPLY if need_reply else 0)
        opened = tuple(os.eventfd(0) for _ in range(fds))
        handling = self.session.receive(Message(request, payload, flags, opened))
        try:
            reply = self.drive(handling, refuses, answer)
        except PeerError as error:
            assert error.name in set(PeerErrorName)
            self.session.close()
            self.connect_again()
        else:
            if reply is not None:
                assert reply.flags == 0x5
                assert reply.request == request
                if reply.fds:
                    assert (request, reply.fds) == (POSTCOPY_ADVISE, (USERFAULTFD,))
            assert reply is not None or not (need_reply and self.acknowledges())

    def acknowledges(self):
        return self.session.negotiated(spec.ProtocolFeature.REPLY_ACK)

    @staticmethod
    def drive(handling, refuses, answer):
        try:
            effect = next(handling)
            while True:
                close(effect)
                if refuses and not isinstance(effect, effects.Refused):
                    effect = handling.throw(PeerError(PeerErrorName.VRING_OUTSIDE_MEMORY))
                else:
                    effect = handling.send(answer_to(effect, answer))
        except StopIteration as stop:
            return stop.value

    @invariant()
    def state_is_possible(self):
        held = 0
        for vring in getattr(self, "session", Session(OFFER)).vrings:
            # A packed ring's own size and base may be left in a session that is split again.
            assert 0 <= vring.size <= 32768
            assert 0 <= vring.base <= 0xFFFFFFFF
            assert vring.flags in {0, 1}
            assert vring.desc_user % 16 == vring.avail_user % 2 == vring.used_user % 4 == 0
            held += sum(fd >= 0 for fd in (vring.kick_fd, vring.call_fd, vring.err_fd))
        if hasattr(self, "before"):
            assert count_fds() == self.before + held
            assert not self.session.features & ~OFFER.features

    def teardown(self):
        if hasattr(self, "session"):
            self.session.close()
            assert count_fds() == self.before


AnyFrontEnd.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyFrontEnd = AnyFrontEnd.TestCase


@given(request=REQUESTS, payload=PAYLOADS)
@settings(deadline=None)
def test_a_first_message_of_any_kind(request, payload):
    session = Session(OFFER)
    with suppress(PeerError):
        AnyFrontEnd.drive(session.receive(Message(request, payload)), False, None)
    session.close()
