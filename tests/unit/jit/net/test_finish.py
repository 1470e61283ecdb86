# SPDX-License-Identifier: Apache-2.0
"""Offloads through a running queue pair: passed on to a tap that takes them, else finished."""

from __future__ import annotations

import socket

import pytest
from support.jit.fragments import Cut, large, together
from support.jit.packets import UDP, UDP_L4, Packet, header, verified
from support.jit.pair_rig import ALL, Rig, await_that

from ovs_vhost_plugin.vhost.spec import Feature

PAYLOAD = bytes(i * 13 & 0xFF for i in range(20000))


def offered(packet: Packet, size: int = 0) -> bytes:
    gso = packet.gso if size else 0
    net = header(1, gso, size, packet.start, packet.offset, packet.headers)
    return bytes(net.tobytes() + packet.frame.tobytes())


def test_offloads_pass_to_a_tap_that_takes_them() -> None:
    with Rig() as rig:
        data = offered(Packet(4, "tcp", PAYLOAD), 1448)
        rig.start()
        rig.transmit(data, [12, 54, len(data) - 66])
        rig.kick("tx")
        assert rig.wire.recv(70000) == data


@pytest.mark.parametrize("version", [4, 6])
def test_uso_is_finished_also_for_a_tap_that_takes_the_others(version: int) -> None:
    with Rig() as rig:
        rig.start()
        rig.transmit(offered(Packet(version, "udp", PAYLOAD), 1000))
        rig.kick("tx")
        got = [rig.wire.recv(70000) for _ in range(20)]
        assert all(segment[:12] == bytes(12) for segment in got)
        parts = [bytes(verified(segment[12:]).data.data) for segment in got]
        assert b"".join(parts) == PAYLOAD


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("gso", [UDP, UDP_L4])
def test_large_frames_of_udp_pass_to_a_tap_that_takes_them_too(version: int, gso: int) -> None:
    with Rig(features=ALL | Feature.HOST_UFO.mask) as rig:
        packet = Packet(version, "udp", PAYLOAD)
        packet.gso = gso
        rig.start(finish_udp=False)
        rig.transmit(data := offered(packet, 1000))
        rig.kick("tx")
        assert rig.wire.recv(70000) == data


def test_uso_of_more_datagrams_than_linux_takes_is_finished_all_the_same() -> None:
    with Rig() as rig:
        rig.start(finish_udp=False)
        for length, count in ((6400, 1), (6401, 65)):
            rig.transmit(offered(Packet(4, "udp", PAYLOAD[:length]), 100))
            rig.kick("tx")
            got = [rig.wire.recv(70000) for _ in range(count)]
            assert b"".join(segment[54:] for segment in got) == PAYLOAD[:length]
            rig.tx.collect()


@pytest.mark.parametrize("version", [4, 6])
def test_ufo_becomes_fragments_of_one_datagram_also_when_the_tap_is_full(version: int) -> None:
    with Rig(features=ALL | Feature.HOST_UFO.mask, finish_offloads=True) as rig:
        rig.tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        rig.start()
        identifications = set()
        for start in (0, 4):
            packet = large(version, PAYLOAD)
            data = header(1, UDP, 1000, packet.start, 6, 42).tobytes() + packet.frame.tobytes()
            rig.transmit(data, [12, 30, 1000, len(data) - 1042], start=start)
            rig.kick("tx")
            got = [rig.wire.recv(70000) for _ in range(-(-20008 // 1000))]
            assert all(piece[:12] == bytes(12) for piece in got)
            cuts = [Cut(piece[12:], 14) for piece in got]
            assert together(cuts)[8:] == PAYLOAD
            (identification,) = {cut.id for cut in cuts}
            identifications.add(identification)
            await_that(lambda start=start: rig.tx.collect() == [(start, 0)])  # type: ignore[misc]
        assert len(identifications) == (1 if version == 4 else 2)
        assert rig.pair.counters["tx_packets"] == 2


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_checksums_are_finished(version: int, protocol: str) -> None:
    with Rig(finish_offloads=True) as rig:
        packet = Packet(version, protocol, PAYLOAD[:1400])
        rig.start()
        data = offered(packet)
        rig.transmit(data, [7, 50, len(data) - 57])
        before = rig.memory.read(0x200000, len(data))
        rig.kick("tx")
        got = rig.wire.recv(70000)
        assert got[:12] == bytes(12)
        assert bytes(verified(got[12:]).data.data) == PAYLOAD[:1400]
        assert rig.memory.read(0x200000, len(data)) == before


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_large_frames_are_segmented_also_when_the_tap_is_full(version: int, protocol: str) -> None:
    with Rig(finish_offloads=True) as rig:
        rig.tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        rig.start()
        data = offered(Packet(version, protocol, PAYLOAD), 1000)
        rig.transmit(data, [12, 30, 1000, len(data) - 1042])
        rig.kick("tx")
        got = [rig.wire.recv(70000) for _ in range(20)]
        assert all(segment[:12] == bytes(12) for segment in got)
        parts = [bytes(verified(segment[12:]).data.data) for segment in got]
        assert b"".join(parts) == PAYLOAD
        await_that(lambda: rig.tx.collect() == [(0, 0)])
        assert rig.pair.counters["tx_packets"] == 1


def test_stop_in_the_middle_of_a_large_frame_begins_it_again() -> None:
    """Nothing of it was given back, so the next start finds it in the ring."""
    with Rig(finish_offloads=True) as rig:
        rig.tap.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        rig.start()
        rig.transmit(offered(Packet(4, "tcp", PAYLOAD), 1000))
        rig.kick("tx")
        first = rig.wire.recv(70000)
        rig.pair.stop()
        assert (rig.tx.used_idx, rig.pair.tx.position) == (0, 0)
        rig.wire.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                rig.wire.recv(70000)
        rig.wire.settimeout(60)
        rig.start()
        got = [rig.wire.recv(70000) for _ in range(20)]
        assert got[0] == first
        assert b"".join(bytes(verified(data[12:]).data.data) for data in got) == PAYLOAD
