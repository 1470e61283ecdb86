# SPDX-License-Identifier: Apache-2.0
"""Each thing a guest can do wrong, done to a running queue pair: named, counted, and contained.

After each of them the other ring still works; after a frame's fault its own ring does too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import numpy as np
import pytest
from support.jit.packed_reference import AVAIL, USED
from support.jit.pair_rig import ALL, EMPTY, PACKED, RX_BUFFERS, TX_BUFFERS, Rig, await_that
from support.jit.ring_reference import INDIRECT, NEXT, WRITE, descriptor

from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.layout import FRAME_MAX, HELD_IOVECS_MAX
from ovs_vhost_plugin.vhost.spec import Feature

TABLE = TX_BUFFERS + 0x8000
NOWHERE = 0x7000_0000
UNMAPPED = 0x6000_0000
BUFFER = (TX_BUFFERS, 100)
ETHERTYPE_LOCAL = bytes(12) + b"\x88\xb5"


def offer(rig: Rig, *entries: tuple[int, int, int, int], head: int = 0) -> None:
    for index, entry in enumerate(entries):
        rig.tx.describe(index, *entry)
    rig.tx.offer(head)


def indirect(rig: Rig, *entries: tuple[int, int, int, int], flags: int = INDIRECT) -> None:
    rig.memory.write(TABLE, b"".join(descriptor(*entry) for entry in entries))
    offer(rig, (TABLE, 16 * len(entries), flags, 0))


def net_header(
    rig: Rig, flags: int, gso: int = 0, size: int = 0, start: int = 0, hdr: int = 0
) -> None:
    raw = struct.pack("<BBHHHHH", flags, gso, hdr, size, start, 16, 0)
    rig.transmit(raw + ETHERTYPE_LOCAL + bytes(186))


def flags(rig: Rig, buffer_id: int, flags: int) -> None:
    """A descriptor of a packed ring."""
    rig.tx.put_descriptor(0, *BUFFER, buffer_id, flags)


PACKED_TRIGGERS: dict[Fault, Callable[[Rig], None]] = {
    Fault.WRAP_COUNTER_WRONG: lambda rig: flags(rig, 0, AVAIL | USED),
    Fault.ID_OUT_OF_RANGE: lambda rig: flags(rig, rig.tx.size, AVAIL),
    Fault.NEXT_NOT_AVAILABLE: lambda rig: flags(rig, 0, AVAIL | NEXT),
}


def long_chain(rig: Rig) -> None:
    rig.tx.chain(0, [(TX_BUFFERS, 1)] * (HELD_IOVECS_MAX + 1), write=False)
    rig.tx.offer(0)


TRIGGERS = PACKED_TRIGGERS | {
    Fault.AVAIL_JUMPS: lambda rig: rig.tx.put(rig.tx.avail + 2, rig.tx.size + 1),
    Fault.AVAIL_GOES_BACK: lambda rig: rig.tx.put(rig.tx.avail + 2, -1),
    Fault.HEAD_OUT_OF_RANGE: lambda rig: rig.tx.offer(rig.tx.size),
    Fault.NEXT_OUT_OF_RANGE: lambda rig: offer(rig, (*BUFFER, NEXT, rig.tx.size)),
    Fault.CHAIN_LOOPS: lambda rig: offer(rig, (*BUFFER, NEXT, 1), (*BUFFER, NEXT, 0)),
    Fault.CHAIN_TOO_LONG: long_chain,
    Fault.WRONG_DIRECTION: lambda rig: offer(rig, (*BUFFER, WRITE, 0)),
    Fault.ZERO_LENGTH: lambda rig: offer(rig, (NOWHERE, 0, 0, 0)),
    Fault.ADDRESS_WRAPS: lambda rig: offer(rig, (2**64 - 1, 2, 0, 0)),
    Fault.ADDRESS_OUTSIDE_MEMORY: lambda rig: offer(rig, (NOWHERE, 100, 0, 0)),
    Fault.INDIRECT_NOT_NEGOTIATED: lambda rig: indirect(rig, (*BUFFER, 0, 0)),
    Fault.INDIRECT_NESTED: lambda rig: indirect(rig, (TABLE, 16, INDIRECT, 0)),
    Fault.INDIRECT_WITH_NEXT: lambda rig: indirect(rig, (*BUFFER, 0, 0), flags=INDIRECT | NEXT),
    Fault.INDIRECT_EMPTY: lambda rig: offer(rig, (TABLE, 0, INDIRECT, 0)),
    Fault.INDIRECT_LENGTH: lambda rig: offer(rig, (TABLE, 17, INDIRECT, 0)),
    Fault.INDIRECT_TOO_LARGE: lambda rig: offer(rig, (TABLE, 0xFFFF_FFF0, INDIRECT, 0)),
    Fault.INDIRECT_OUTSIDE_MEMORY: lambda rig: offer(rig, (NOWHERE, 16, INDIRECT, 0)),
    Fault.MEMORY_GONE: lambda rig: offer(rig, (TX_BUFFERS, 12, NEXT, 1), (UNMAPPED, 100, 0, 0)),
    Fault.CHAIN_WITHOUT_FRAME: lambda rig: rig.transmit(EMPTY),
    Fault.FRAME_TOO_SHORT: lambda rig: rig.transmit(EMPTY + bytes(13)),
    Fault.FRAME_TOO_LONG: lambda rig: rig.transmit(EMPTY + bytes(FRAME_MAX + 1)),
    Fault.CSUM_NOT_NEGOTIATED: lambda rig: net_header(rig, 1, start=34),
    Fault.CSUM_OUTSIDE_FRAME: lambda rig: net_header(rig, 1, start=183),
    Fault.GSO_NOT_NEGOTIATED: lambda rig: net_header(rig, 1, gso=3, size=100, start=34),
    Fault.GSO_UNKNOWN: lambda rig: net_header(rig, 1, gso=9, size=100, start=34),
    Fault.GSO_WITHOUT_CSUM: lambda rig: net_header(rig, 0, gso=1, size=100, start=34),
    Fault.GSO_SIZE: lambda rig: net_header(rig, 1, gso=1, size=0, start=34),
    Fault.HEADER_LENGTH_BEYOND_FRAME: lambda rig: net_header(
        rig, 1, gso=1, size=100, start=34, hdr=201
    ),
    Fault.GSO_HEADERS: lambda rig: net_header(rig, 1, gso=1, size=100, start=34),
}

TESTED_BELOW = {
    Fault.READABLE_AFTER_WRITABLE,
    Fault.KICK_NOT_EVENTFD,
    Fault.CALL_NOT_EVENTFD,
    Fault.KICK_FAILED,
    Fault.LOG_TOO_SMALL,
    Fault.BASE_STALE,
}


def test_no_fault_goes_untested() -> None:
    elsewhere = {fault for fault in Fault if fault.name.startswith("INFLIGHT")}
    assert set(TRIGGERS) | TESTED_BELOW | elsewhere == set(Fault)  # test_jit_inflight_foreign.py


def ping(rig: Rig, kind: str) -> None:
    """A frame passes the ring."""
    data = ETHERTYPE_LOCAL + bytes(range(100))
    if kind == "tx":
        rig.transmit(EMPTY + data, start=rig.tx.size - 1)
        rig.kick("tx")
        assert rig.wire.recv(70000) == EMPTY + data
    else:
        rig.wire.send(EMPTY + data)
        await_that(rig.received)


def rig_for(fault: Fault) -> Rig:
    rig = Rig(size=2048 if fault is Fault.CHAIN_TOO_LONG else 16, finish_offloads=True)
    lacks = {
        Fault.INDIRECT_NOT_NEGOTIATED: Feature.RING_INDIRECT_DESC,
        Fault.CSUM_NOT_NEGOTIATED: Feature.CSUM,
    }
    if fault in lacks:
        rig.features &= ~lacks[fault].mask
    return rig


@pytest.fixture(autouse=True)
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed rings for their own faults."""
    if "fault" in request.fixturenames and request.getfixturevalue("fault") in PACKED_TRIGGERS:
        monkeypatch.setattr(Rig, "extra_features", PACKED)


@pytest.mark.parametrize("fault", TRIGGERS, ids=lambda fault: fault.kebab)
def test_a_fault_is_named_and_contained(fault: Fault) -> None:
    with rig_for(fault) as rig:
        regions = rig.memory.table()
        unmapped = np.array([(UNMAPPED, 4096, 4096)], regions.dtype)
        rig.offer_buffers(8, 2000)
        rig.start(regions=np.concatenate([regions, unmapped]))
        TRIGGERS[fault](rig)
        rig.kick("tx")
        await_that(lambda: rig.pair.counters.get(f"fault_{fault.name.lower()}") == 1, fault.name)
        if fault.breaks_ring:
            await_that(lambda: rig.pair.take_faults() == [("tx", fault)])
        else:
            await_that(lambda: rig.tx.collect() == [(0, 0)])
            assert rig.pair.take_faults() == []
            assert rig.pair.counters["tx_dropped_faulty"] == 1
            ping(rig, "tx")
        ping(rig, "rx")


@pytest.mark.parametrize("name", ["kick_fd", "call_fd", "err_fd"])
def test_an_fd_that_is_no_eventfd_breaks_its_ring(name: str) -> None:
    expected = Fault.KICK_NOT_EVENTFD if name == "kick_fd" else Fault.CALL_NOT_EVENTFD
    with Rig() as rig:
        rig.start(rx=rig.vring("rx", **{name: rig.wire.fileno()}))
        assert rig.pair.take_faults() == [("rx", expected)]
        ping(rig, "tx")


@pytest.mark.parametrize("name", ["call_fd", "err_fd"])
def test_an_eventfd_that_is_written_does_not_block(name: str) -> None:
    """A front-end that counts it up to its limit would hold the loop in write(2)."""
    with Rig() as rig:
        fd = os.eventfd(0)
        rig.start(rx=rig.vring("rx", **{name: fd}))
        assert not os.get_blocking(fd)
        rig.pair.stop()
        os.close(fd)


def test_a_kick_fd_that_fails_breaks_its_ring() -> None:
    with Rig() as rig:
        rig.offer_buffers(4, 2000)
        kick = os.dup(rig.tx_fds.kick)
        rig.start(tx=rig.vring("tx", kick_fd=kick))
        rig.idle()
        os.close(kick)
        ping(rig, "rx")  # the loop wakes up, and sleeps again on an fd that is none
        await_that(lambda: rig.pair.take_faults() == [("tx", Fault.KICK_FAILED)])
        ping(rig, "rx")


def test_receive_buffers_that_are_gone_break_the_ring() -> None:
    with Rig() as rig:
        regions = rig.memory.table()
        unmapped = np.array([(UNMAPPED, 4096, 4096)], regions.dtype)
        rig.rx.describe(0, UNMAPPED, 2000, WRITE)
        rig.rx.offer(0)
        rig.start(regions=np.concatenate([regions, unmapped]))
        rig.wire.send(EMPTY + bytes(100))
        await_that(lambda: rig.pair.take_faults() == [("rx", Fault.MEMORY_GONE)])
        ping(rig, "tx")


def test_readable_after_writable() -> None:
    with Rig() as rig:
        rig.start()
        rig.rx.describe(0, RX_BUFFERS, 100, WRITE | NEXT, 1)
        rig.rx.describe(1, RX_BUFFERS, 100)
        rig.rx.offer(0)
        rig.kick("rx")
        await_that(lambda: rig.pair.take_faults() == [("rx", Fault.READABLE_AFTER_WRITABLE)])
        ping(rig, "tx")


def test_a_log_too_small_is_counted_and_nothing_else() -> None:
    with Rig(log_bytes=1) as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        ping(rig, "rx")
        ping(rig, "tx")
        assert rig.pair.counters["fault_log_too_small"] > 0
        assert rig.pair.take_faults() == []
        assert rig.log is not None and not rig.log.any()


def test_a_broken_ring_is_remembered_where_it_stood_while_the_other_goes_on() -> None:
    with Rig() as rig:
        rig.start()
        ping(rig, "tx")
        rig.tx.offer(rig.tx.size)
        rig.kick("tx")
        await_that(lambda: rig.pair.take_faults() == [("tx", Fault.HEAD_OUT_OF_RANGE)])
        for _ in range(2):
            rig.start(tx=None)
            rig.pair.stop()
            assert rig.pair.tx.position == 1


def test_a_packed_ring_that_has_gone_on_from_its_base_does_not_begin() -> None:
    """As after its back-end was lost: its front-end knows no better base than the one before."""
    with Rig(features=ALL | PACKED) as rig:
        rig.offer_buffers(4, 2000)
        rig.start()
        ping(rig, "rx")
        rig.pair.stop()
        rig.start(rx=rig.vring("rx", next_avail=0))
        assert rig.pair.take_faults() == [("rx", Fault.BASE_STALE)]
        ping(rig, "tx")
        assert os.eventfd_read(rig.rx_fds.err) == 1
        rig.wire.send(EMPTY + bytes(100))
        rig.idle()
        assert rig.rx.collect() == []
