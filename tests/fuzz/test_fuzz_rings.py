# SPDX-License-Identifier: Apache-2.0
"""Anything in the rings: no byte touched that was not offered, each fault named, always an end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzz.fuzz_profile import examples
from support.fuzz.fuzz_victim import Victim
from support.fuzz.ring_case import HIGH, LOW, NEXT_TO_IT, ODD_END, RINGS, RINGS_SIZE, TABLES
from support.jit.ring_reference import NEXT, WRITE

KIND = st.sampled_from(["rx", "tx"])
INDEX = st.integers(0, 7) | st.integers(0, 64) | st.integers(0, 0xFFFF)
NEAR = st.integers(LOW, LOW + 0x2000)
ADDRESS = st.one_of(
    NEAR,
    NEAR,
    NEAR,
    st.integers(NEXT_TO_IT - 64, NEXT_TO_IT + 64),
    st.integers(ODD_END - 80, ODD_END + 16),
    st.integers(2**64 - 64, 2**64 - 1),
    st.sampled_from([HIGH, HIGH - 1, LOW - 1, TABLES, RINGS, RINGS + RINGS_SIZE, 0]),
    st.integers(0, 2**64 - 1),
)
SHORT = st.integers(1, 80)
LENGTH = st.one_of(
    SHORT,
    SHORT,
    SHORT,
    st.sampled_from([0, 12, 16, 1514, 4096, 0x8000, 0x10000, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
)
GOOD = st.one_of(
    st.tuples(NEAR, st.integers(1, 2000)),
    st.tuples(NEAR, st.integers(1, 2000)),
    st.tuples(st.integers(NEXT_TO_IT - 64, NEXT_TO_IT + 64), st.integers(1, 4096)),
    st.tuples(st.integers(2**64 - 64, 2**64 - 1), st.just(1)),
)
FLAGS = st.sampled_from([0, NEXT, NEXT, WRITE, WRITE | NEXT, WRITE | NEXT]) | st.integers(0, 15)
DESCRIPTOR = st.tuples(ADDRESS, LENGTH, FLAGS, INDEX)
GOOD_DESCRIPTORS = st.builds(
    lambda buffers, flag: [
        (*buffer, flag | (NEXT if i + 1 < len(buffers) else 0), i + 1)
        for i, buffer in enumerate(buffers)
    ],
    st.lists(GOOD, min_size=1, max_size=6),
    st.sampled_from([0, WRITE]),
)
# Good ones but for one of them
DESCRIPTORS = st.builds(
    lambda good, at, bad: good[: at % len(good)] + bad + good[at % len(good) + len(bad) :],
    GOOD_DESCRIPTORS,
    st.integers(0, 5),
    st.lists(DESCRIPTOR, max_size=1),
)
TABLE = st.integers(TABLES, TABLES + 0x100) | st.integers(NEXT_TO_IT - 40, NEXT_TO_IT) | ADDRESS

ETHERNET = st.builds(
    lambda tags, kind, rest: bytes(12) + b"".join(tags) + kind + rest,
    st.lists(st.sampled_from([b"\x81\x00\x00\x07", b"\x88\xa8\x0f\xff"]), max_size=3),
    st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x88\xb5"]),
    st.binary(max_size=60),
)
TCP = st.builds(
    lambda offset, rest: bytes(12) + bytes([offset << 4, 0x99]) + bytes(6) + rest,
    st.sampled_from([5, 5, 5, 8, 15, 0]),
    st.binary(max_size=40),
)
IPV4 = st.builds(
    lambda words, protocol, tcp: bytes(12) + b"\x08\x00" + bytes([0x40 | words]) + bytes(8)
    + bytes([protocol]) + bytes(max(0, 4 * words - 10)) + tcp,
    st.sampled_from([5, 5, 5, 5, 6, 15, 0]),
    st.sampled_from([6, 6, 6, 17, 0]),
    TCP,
)  # fmt: skip
IPV6 = st.builds(
    lambda options, tcp: bytes(12) + b"\x86\xdd" + bytes(6) + bytes([6 if not options else 0])
    + bytes(33) + b"".join(bytes([after, length]) + bytes(6) for after, length in options) + tcp,
    st.lists(st.sampled_from([(0, 0), (60, 0), (6, 0), (17, 0), (6, 255)]), max_size=3),
    TCP,
)  # fmt: skip


def net_header(flags: int, gso: int, fields: tuple[int, ...]) -> bytes:
    return bytes([flags, gso]) + b"".join(field.to_bytes(2, "little") for field in fields)


U16 = st.integers(0, 0xFFFF)
NET_HEADER = st.one_of(
    st.just(bytes(12)),
    st.builds(
        net_header,
        st.just(1),
        st.sampled_from([1, 1, 3, 4, 0x81]),
        st.tuples(
            st.sampled_from([0, 54, 9999]),
            st.sampled_from([100, 8, 7]),
            st.sampled_from([34, 34, 54]),
            st.just(16),
            st.just(0),
        ),
    ),
    st.builds(
        net_header,
        st.sampled_from([1, 1, 1, 0, 2, 255]),
        st.sampled_from([1, 1, 4, 4, 5, 0x81, 0, 3, 9]),
        st.tuples(
            st.sampled_from([0, 54, 74]) | U16,
            st.sampled_from([100, 1448, 8, 7, 0xFFFF]) | U16,
            st.sampled_from([34, 34, 54, 62]) | U16,
            st.sampled_from([16, 16, 6]) | U16,
            st.just(0),
        ),
    ),
    st.binary(min_size=12, max_size=12),
)
FRAME = st.builds(
    lambda header, size, frame: header[:size] + frame,
    NET_HEADER,
    st.sampled_from([12, 12, 12, 10]),
    ETHERNET | IPV4 | IPV4 | IPV6,
)


def step(name: str, *arguments: Any) -> Any:
    return st.tuples(st.just(name), *arguments)


ONE = st.one_of(
    step("chain", KIND, INDEX, st.lists(st.tuples(ADDRESS, LENGTH), min_size=1, max_size=4)),
    step("raw", KIND, DESCRIPTORS, st.just(0) | INDEX),
    step("raw", KIND, DESCRIPTORS, st.just(0)),
    step("offer", KIND, st.lists(INDEX, max_size=6)),
    step("index", KIND, st.integers(-3, 40) | st.integers(0, 0xFFFF)),
    step("event", KIND, INDEX, st.integers(0, 3)),
    step("chain", KIND, st.just(0), st.just([(LOW, 1)] * 1023)),
    step("write", st.integers(RINGS, RINGS + 0x3F00), st.binary(max_size=64)),
    step("late"),
)
# A header that asks for something, a frame that fits to it or not, a chain that has both
SEND = st.builds(
    lambda at, frame, rest, head: [
        ("write", at, frame),
        ("chain", "tx", head, [(at, len(frame) + rest)]),
    ],
    NEAR,
    FRAME,
    st.sampled_from([0, 1, 100, 100, 3000, 3000, 65000, 65600]),
    INDEX,
)
RECEIVE = st.builds(
    lambda chains, lengths: [*chains, ("frames", lengths)],
    st.lists(
        step("chain", st.just("rx"), INDEX, st.lists(GOOD, min_size=1, max_size=4)), max_size=4
    ),
    st.lists(st.integers(12, 3000) | st.integers(12, 65600), max_size=8),
)
INDIRECTLY = st.builds(
    lambda kind, table, entries, excess, flags: [
        ("indirect", kind, table, entries, excess, flags),
        ("offer", kind, [0]),
    ],
    KIND,
    TABLE,
    DESCRIPTORS,
    st.sampled_from([0, 0, 0, 0, 8, -16, -96, 16 * 1100]),
    st.sampled_from([0, 0, 0, WRITE, NEXT]),
)
STEPS = st.lists(SEND | SEND | RECEIVE | INDIRECTLY | ONE.map(lambda one: [one]), max_size=20).map(
    lambda parts: list(chain.from_iterable(parts))
)
SWITCHES = (
    "enabled", "event_idx", "indirect", "log_used", "mergeable", "guest_csum", "csum", "ecn",
    "finish_offloads", "finish_udp",
)  # fmt: skip
USUALLY = st.sampled_from([1, 1, 1, 1, 0])
CASE = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 3),
        "size": st.sampled_from([1, 2, 8, 8, 16, 64, 1024]),
        "first": st.sampled_from([0, 7, 65535, 65520]),
        "flags": st.fixed_dictionaries(dict.fromkeys(SWITCHES, USUALLY)),
        "header_size": st.sampled_from([12, 12, 10]),
        "gso_types": st.sampled_from([0b111010, 0b110010, 0b010010, 0]),
        "log": st.sampled_from(["whole", "whole", "short", ""]),
        "steps": STEPS,
    }
)


@pytest.fixture(scope="module")
def compiled() -> Iterator[Victim]:
    victim = Victim("support.fuzz.ring_case")
    yield victim
    victim.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Victim]:
    victim = Victim("support.fuzz.ring_case", jit=False)
    yield victim
    victim.close()


@examples(400)
@given(case=CASE)
def test_whatever_a_driver_does(compiled: Victim, case: dict[str, Any]) -> None:
    compiled.run(case)


@pytest.fixture(scope="module")
def stormed() -> Iterator[Victim]:
    victim = Victim("support.fuzz.storm_case")
    yield victim
    victim.close()


@examples(30)
@given(seed=st.integers(0, 2**64 - 1), features=st.integers(0, 31))
def test_rings_that_change_while_they_are_read(stormed: Victim, seed: int, features: int) -> None:
    stormed.run((seed, features))


@examples(15)
@given(case=CASE)
def test_the_kernels_as_plain_python_do_the_same(plain: Victim, case: dict[str, Any]) -> None:
    plain.run(case)
