# SPDX-License-Identifier: Apache-2.0
"""Any messages in any order: errors have names, nothing leaks, the next front-end finds a port."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz.fuzz_profile import examples
from support.fuzz.fuzz_victim import Victim
from support.fuzz.message_steps import (
    KINDS,
    NOT_USED,
    OFFER,
    PAIRS,
    REGION,
    RING,
    USER,
    good_set_up,
    good_start,
    good_vring,
    kept_packed_set_up,
    kept_set_up,
    send,
)

from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import Feature, FrontendRequest

R = FrontendRequest
INDEX = st.integers(0, 2 * PAIRS - 1)
EDGES = [0, 1, 2, 3, 4, 7, 68, 255, 256, 257, 0x1000, 0xFFFF, 0x10000, 2**31, 2**32 - 1]
U32 = st.sampled_from(EDGES) | st.integers(0, 2**32 - 1)
U64 = st.sampled_from([*EDGES, 2**63, 2**64 - 1, 2**64 - 4096]) | st.integers(0, 2**64 - 1)
PLACE = st.integers(0, REGION // 16).map(lambda n: USER + 16 * n) | U64
NEED_REPLY = st.booleans()


def packed(layout: Any, *fields: Any) -> Any:
    return st.tuples(*fields).map(lambda values: layout.pack(*values))


USUAL_REGION = st.tuples(
    st.sampled_from([0, REGION, 2 * REGION]),
    st.sampled_from([REGION, 0x1000]),
    st.sampled_from([USER, USER + REGION, USER + 8 * REGION]),
    st.sampled_from([0, 0, 16, 0x1000]),
)
FIELDS = USUAL_REGION | USUAL_REGION | st.tuples(U64, U64, U64, U64)
SINGLE_REGION = st.builds(lambda row: spec.SINGLE_REGION.pack(0, *row), FIELDS)


def regions(count: int) -> Any:
    rows = st.lists(FIELDS, min_size=count, max_size=count)
    return rows.map(
        lambda found: (
            spec.MEMORY_HEADER.pack(count, 0)
            + b"".join(spec.MEMORY_REGION.pack(*row) for row in found)
        )
    )


def message(request: int, payload: Any, kinds: Any = None) -> Any:
    kinds = st.just([]) if kinds is None else kinds
    return st.builds(
        lambda asked, data, fds: send(request, data, *fds, need_reply=asked),
        NEED_REPLY,
        payload,
        kinds,
    )


KIND = st.sampled_from(["memory", "eventfd"]) | st.sampled_from(sorted(KINDS))
ONE_EVENTFD = st.just(["eventfd"]) | st.lists(KIND, max_size=2)
VRING_FD = packed(spec.U64, INDEX | st.builds(lambda i: i | 0x100, INDEX) | U64)
SUBSET = st.integers(0, 2**64 - 1).map(lambda bits: bits & OFFER.features)
USED = OFFER.features & ~NOT_USED
LOGGING = st.sampled_from([OFFER.features, USED, USED | Feature.LOG_ALL.mask])
MEMORY = st.integers(0, 9).flatmap(
    lambda count: st.tuples(
        regions(count),
        st.just(["memory"] * count) | st.lists(KIND, max_size=9),
    )
)
STATE = packed(spec.VRING_STATE, INDEX, st.sampled_from([0, 1, 8, 64]) | U32)
INFLIGHT_FIELDS = (
    st.just(0x1000) | U64,
    st.just(0) | U64,
    st.integers(0, 2 * PAIRS + 1) | st.just(0xFFFF),
    st.sampled_from([0, 4, 8, 8, 64, 0x8000, 0xFFFF]),
)


def inflight_payload(size: int, offset: int, queues: int, entries: int, padding: bool) -> bytes:
    return spec.INFLIGHT.pack(size, offset, queues, entries) + bytes(4 * padding)


INFLIGHT = st.builds(inflight_payload, *INFLIGHT_FIELDS, st.booleans())
CONFIG_FIELDS = (
    st.integers(0, 26) | U32,
    st.binary(min_size=1, max_size=26),
    st.sampled_from([0, 0, 1, 1, 2]),
)


def config_payload(offset: int, data: bytes, flags: int) -> bytes:
    return spec.CONFIG.pack(offset, len(data), flags) + data


IOTLB = packed(
    spec.IOTLB,
    *(st.sampled_from([0, 0x1000, 0x7F0000000000]) | U64,) * 3,
    st.sampled_from([1, 2, 3]) | st.integers(0, 255),
    st.sampled_from([2, 2, 3]) | st.integers(0, 255),
)

MESSAGE = st.one_of(
    message(R.GET_VRING_BASE, STATE),
    message(R.SET_VRING_ENABLE, packed(spec.VRING_STATE, INDEX, st.sampled_from([0, 1, 1, 2]))),
    message(R.SET_VRING_NUM, STATE),
    message(R.VRING_KICK, packed(spec.VRING_STATE, INDEX, st.sampled_from([0, 0, 1]))),
    message(R.SET_VRING_BASE, STATE),
    message(
        R.SET_VRING_ADDR,
        packed(spec.VRING_ADDR, INDEX, st.sampled_from([0, 1, 2]), PLACE, PLACE, PLACE, U64),
    ),
    *(
        message(kind, VRING_FD, ONE_EVENTFD)
        for kind in (R.SET_VRING_KICK, R.SET_VRING_CALL, R.SET_VRING_ERR)
    ),
    message(R.SET_FEATURES, packed(spec.U64, LOGGING | LOGGING | SUBSET | U64)),
    message(R.SET_PROTOCOL_FEATURES, packed(spec.U64, st.just(OFFER.protocol_features) | U64)),
    message(R.SET_LOG_BASE, packed(spec.LOG, U64, U64), st.lists(KIND, max_size=2)),
    message(R.SET_LOG_BASE, packed(spec.LOG, st.just(0x1000), st.just(0)), st.just(["memory"])),
    MEMORY.flatmap(lambda both: message(R.SET_MEM_TABLE, st.just(both[0]), st.just(both[1]))),
    message(R.SEND_RARP, st.just(b"\x52\x54\0\0\0\1\0\0") | st.binary(min_size=8, max_size=8)),
    message(R.RESET_OWNER, st.just(b"")),
    message(R.RESET_DEVICE, st.just(b"")),
    message(R.IOTLB_MSG, IOTLB),
    message(
        R.SET_BACKEND_REQ_FD,
        st.just(b""),
        st.sampled_from([["channel"], ["channel-answers"], ["channel-babbles"], ["alone"]])
        | st.lists(KIND, max_size=2),
    ),
    *(
        message(kind, st.builds(config_payload, *CONFIG_FIELDS))
        for kind in (R.GET_CONFIG, R.SET_CONFIG)
    ),
    message(R.SET_STATUS, packed(spec.U64, st.sampled_from([0, 0xF, 0x80]) | U64)),
    message(R.ADD_MEM_REG, SINGLE_REGION, st.just(["memory"]) | st.lists(KIND, max_size=2)),
    message(R.REM_MEM_REG, SINGLE_REGION, st.lists(KIND, max_size=1)),
    message(
        R.SET_DEVICE_STATE_FD,
        packed(spec.DEVICE_STATE, st.sampled_from([0, 1, 1, 2]), st.sampled_from([0, 0, 1])),
        st.just(["pipe"]) | st.just(["pipe-out"]) | st.lists(KIND, max_size=2),
    ),
    message(R.GET_INFLIGHT_FD, INFLIGHT),
    message(R.SET_INFLIGHT_FD, INFLIGHT, st.just(["inflight"]) | st.lists(KIND, max_size=2)),
    message(R.CHECK_DEVICE_STATE, st.just(b"")),
    st.builds(
        lambda request, asked, payload, fds: send(request, payload, *fds, need_reply=asked),
        st.sampled_from([int(request) for request in R]) | U32,
        NEED_REPLY,
        st.just(b"") | packed(spec.U64, U64) | STATE | st.binary(max_size=300),
        st.lists(KIND, max_size=3),
    ),
)
# Rings as a hostile guest fills them: nobody is to be hurt while they run
GUEST = st.one_of(
    st.tuples(st.just("poke"), st.integers(0, 4 * RING - 64), st.binary(max_size=32)),
    st.builds(
        lambda index, ahead: ("poke", index * RING + 0x402, ahead.to_bytes(2, "little")),
        INDEX,
        st.integers(0, 9) | st.integers(0, 0xFFFF),
    ),
    st.tuples(st.just("kick"), INDEX),
)
WORLD = st.one_of(
    st.tuples(st.just("frame"), st.integers(0, PAIRS - 1), st.integers(12, 2000)),
    st.just(("loop",)),
    st.just(("hang_up",)),
    st.tuples(st.just("finish"), st.booleans()),
    st.tuples(st.just("port"), st.booleans(), st.sampled_from([68, 1500, 9000])),
    st.just(("close_early",)),
)
BEHAVING = st.one_of(
    st.just(good_start()),
    st.builds(good_vring, INDEX, st.integers(0, 3)),
    st.builds(good_set_up, st.integers(0, 9)),
    st.builds(kept_set_up, st.integers(0, 9)),
    st.builds(kept_packed_set_up, st.integers(0, 9)),
)


def single(steps: Any) -> Any:
    return steps.map(lambda step: [step])


STEPS = st.builds(
    lambda begin, parts: list(chain(begin, *parts)),
    st.sampled_from([good_set_up(0), good_start(), []]),
    st.lists(
        st.one_of(single(MESSAGE), single(MESSAGE), single(GUEST), single(WORLD), BEHAVING),
        max_size=25,
    ),
)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    victim = Victim("support.fuzz.message_case")
    yield victim
    victim.close()


@examples(100)
@given(steps=STEPS)
def test_whatever_a_front_end_sends(victim: Victim, steps: list[Any]) -> None:
    victim.run(steps)
