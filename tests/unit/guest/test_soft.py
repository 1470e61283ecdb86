# SPDX-License-Identifier: Apache-2.0
"""The software guest against the reference back-end, which echoes frames."""

import random
import socket
import struct
import threading
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.guest.guest_lab import Lab
from support.guest.reference_backend import ReferenceBackEnd
from support.guest.reference_rings import ALL_FEATURES, Behaviour

from ovs_vhost_plugin.guest.driver.driver import LARGEST_FRAME, NetHeader
from ovs_vhost_plugin.guest.driver.memory import GuestMemory, Region
from ovs_vhost_plugin.guest.driver.responder import Responder
from ovs_vhost_plugin.guest.driver.split import DeviceBrokenError, RingFullError, SplitQueue
from ovs_vhost_plugin.guest.frontend.connection import BackEndClosedError
from ovs_vhost_plugin.guest.frontend.frontend import NotOfferedError
from ovs_vhost_plugin.guest.soft import FEATURES, Config, SoftGuest
from ovs_vhost_plugin.vhost.spec import Feature

SIZES = [14, 60, 1514, 2036, 2037, 4096, 9014, 65550]


def frame_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed * 100_000 + size).randbytes(size)


def collect(guest: SoftGuest, count: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < count:
        more = guest.receive(5)
        assert more, f"{len(frames)} of {count} frames came"
        frames += more
    return frames


def descriptor(queue: SplitQueue, table: int, index: int) -> tuple[int, int, int, int]:
    address, length, flags, following = struct.unpack(
        "<QIHH", queue.memory.read(table + 16 * index, 16)
    )
    return address, length, flags, following


def without(*features: Feature) -> int:
    return FEATURES & ~sum(feature.mask for feature in features)


def echo(guest: SoftGuest, frames: list[bytes], pieces: list[int] | None = None) -> None:
    for frame in frames:
        guest.send(frame, pieces=pieces)
        assert collect(guest, 1) == [frame]


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("event_index", [False, True])
def test_mergeable_frames_of_all_sizes(lab: Lab, event_index: bool, indirect: bool) -> None:
    features = FEATURES if event_index else without(Feature.RING_EVENT_IDX)
    guest, back_end = lab.pair(Config(features=features, indirect=indirect))
    echo(guest, [frame_of(size) for size in SIZES])
    guest.drain()
    assert guest.pairs[0].tx.queue.outstanding == 0
    assert [sum(chain) - 12 for chain in back_end.seen.chains] == SIZES


def test_frames_without_mergeable_buffers(lab: Lab) -> None:
    guest, _ = lab.pair(Config(features=without(Feature.MRG_RXBUF), mtu=9000))
    echo(guest, [frame_of(size) for size in (14, 1514, 9014)])


def test_large_frames_in_one_big_buffer(lab: Lab) -> None:
    features = without(Feature.MRG_RXBUF) | Feature.GUEST_CSUM.mask | Feature.GUEST_TSO4.mask
    guest, _ = lab.pair(Config(features=features, size=64))
    echo(guest, [frame_of(size) for size in (60, 65550, LARGEST_FRAME)])


def test_legacy_driver_with_ten_bytes_of_header(lab: Lab) -> None:
    guest, back_end = lab.pair(Config(features=0))
    echo(guest, [frame_of(size) for size in (60, 1514)], pieces=[10, 2048])
    assert {len(header) for header in back_end.seen.headers} == {10}
    assert back_end.seen.chains == [[10, 60], [10, 1514]]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(14, 9000), min_size=1, max_size=6),
    pieces=st.lists(st.integers(1, 2048), min_size=1, max_size=4).filter(lambda p: p[-1] >= 160),
    receive_pieces=st.lists(st.integers(12, 3000), min_size=1, max_size=3),
    indirect=st.booleans(),
    first_index=st.sampled_from([0, 65500, 65535]),
)
def test_chains_of_any_shape(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    pieces: list[int],
    receive_pieces: list[int],
    indirect: bool,
    first_index: int,
) -> None:
    lab = Lab(tmp_path_factory.mktemp("any"))
    config = Config(
        size=1024, indirect=indirect, receive_pieces=receive_pieces, first_index=first_index
    )
    guest, back_end = lab.pair(config)
    frames = [frame_of(size, seed) for seed, size in enumerate(sizes)]
    for frame in frames:
        guest.send(frame, pieces=pieces)
    assert collect(guest, len(frames)) == frames
    for chain in back_end.seen.chains:
        assert chain[:-1] == [*pieces, *[pieces[-1]] * len(chain)][: len(chain) - 1]
    lab.close()


def test_sixteen_bit_indices_wrap_and_descriptors_come_back(lab: Lab) -> None:
    guest, _ = lab.pair(Config(size=16, first_index=65500))
    tx, rx = guest.pairs[0].tx.queue, guest.pairs[0].rx.queue
    for number in range(120):
        echo(guest, [frame_of(100 + 20 * number, number)])
    guest.drain()
    assert tx.used_index == (65500 + 120) & 0xFFFF
    assert tx.free == 16
    assert rx.outstanding == 16


def test_a_full_ring_waits_for_the_device(lab: Lab) -> None:
    guest, _ = lab.pair(Config(size=8))
    frames = [frame_of(3000, number) for number in range(40)]
    received: list[bytes] = []
    for frame in frames:
        guest.send(frame)
        received += guest.receive(0)
    received += collect(guest, len(frames) - len(received))
    assert received == frames


def test_frames_stay_in_order_when_chains_come_back_in_another(lab: Lab) -> None:
    guest, _ = lab.pair(Config(), Behaviour(hold_back=3))
    frames = [frame_of(4000, number) for number in range(16)]
    for frame in frames:
        guest.send(frame)
    assert collect(guest, 16) == frames
    guest.drain()
    assert guest.pairs[0].tx.queue.free == 256


def test_a_ring_that_stays_full_is_reported(lab: Lab) -> None:
    guest, _ = lab.pair(Config(size=4), Behaviour(hold_back=100))
    guest.config = replace(guest.config, timeout=0.1)
    with pytest.raises(RingFullError):
        for _ in range(5):
            guest.send(frame_of(60))
    with pytest.raises(RingFullError):
        guest.drain()


def test_a_frame_larger_than_the_ring_is_refused_without_loss(lab: Lab) -> None:
    guest, _ = lab.pair(Config(size=8))
    patient, guest.config = guest.config, replace(guest.config, timeout=0.05)
    with pytest.raises(RingFullError):
        guest.send(frame_of(65550))
    guest.config = patient
    echo(guest, [frame_of(1000)])


def test_queue_pairs_are_apart(lab: Lab) -> None:
    guest, back_end = lab.pair(Config(queue_pairs=3))
    assert 17 in back_end.seen.names()
    for queue in (2, 0, 1):
        guest.send(frame_of(900, queue), queue=queue)
        [(came_on, received)] = guest.receive_all(5)
        assert (came_on, received.frame) == (queue, frame_of(900, queue))


def test_a_pair_that_is_off_receives_nothing_until_it_is_on(lab: Lab) -> None:
    guest, _ = lab.pair(Config(queue_pairs=2))
    assert guest.frontend is not None
    guest.frontend.enable_vring(2, False)
    guest.frontend.connection.ask(1)  # what came before has been handled
    guest.send(b"a" * 60, queue=1)
    assert guest.receive(0.05) == []
    guest.frontend.enable_vring(2, True)
    assert collect(guest, 1) == [b"a" * 60]


def test_header_fields_reach_the_device(lab: Lab) -> None:
    features = FEATURES | Feature.CSUM.mask | Feature.HOST_TSO4.mask
    guest, back_end = lab.pair(Config(features=features))
    guest.send(frame_of(3000), header=NetHeader(1, 1, 54, 1448, 34, 16))
    collect(guest, 1)
    assert back_end.seen.headers == [struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)]


def test_buffers_across_regions_and_addresses_that_all_differ(lab: Lab) -> None:
    boundary = 0x9000
    memory = GuestMemory(
        [
            Region(0x1000, boundary - 0x1000, 0x7F12_3456_7000, 0x3000),
            Region(boundary, 0x2000, 0x5000_0000, 0x1000),
            Region(boundary + 0x2000, 0x300000, 0x1_0000_0000, 0),
        ]
    )
    guest, back_end = lab.pair(Config(size=32, memory=memory, receive_pieces=[1700]))
    queue = guest.pairs[0].rx.queue
    heads = [descriptor(queue, queue.desc_address, i)[:2] for i in range(32)]
    assert any(at < boundary < at + length for at, length in heads)
    echo(guest, [frame_of(2000, number) for number in range(70)])
    assert len(back_end.regions) == 3


@pytest.mark.parametrize("event_index", [False, True])
def test_one_kick_for_many_frames_and_no_call_that_nobody_wants(
    lab: Lab, event_index: bool
) -> None:
    features = FEATURES if event_index else without(Feature.RING_EVENT_IDX)
    guest, back_end = lab.pair(Config(features=features))
    echo(guest, [b"a new back-end may call once for nothing" * 2])
    guest.drain()
    assert guest.frontend is not None
    guest.frontend.connection.ask(1)
    kicks, calls = back_end.seen.kicks, back_end.seen.calls
    for number in range(50):
        guest.pairs[0].tx.add(frame_of(60, number))
    guest.publish(guest.pairs[0].tx_vring)
    guest.frontend.connection.ask(1)
    assert (back_end.seen.kicks - kicks, back_end.seen.calls - calls) == (1, 0)
    assert len(guest.receive(0)) == 50


def test_the_guest_connects_to_a_back_end_that_listens(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    accepted: list[ReferenceBackEnd] = []
    thread = threading.Thread(target=lambda: accepted.append(lab.serve(listener.accept()[0])))
    thread.start()
    guest = SoftGuest(path)
    guest.start()
    thread.join()
    echo(guest, [frame_of(500)])
    guest.stop()
    assert accepted[0].seen.names()[-2:] == [11, 11]
    listener.close()


def test_a_back_end_in_the_place_of_a_lost_one_goes_on(lab: Lab) -> None:
    guest, first = lab.pair(Config(size=32, first_index=65530))
    echo(guest, [frame_of(700, number) for number in range(20)])
    first.stop()
    with pytest.raises(BackEndClosedError):
        guest.receive(5)
    guest.send(b"sent while nobody was there" * 3)
    second = lab.back_end(guest)
    guest.start()
    assert collect(guest, 1) == [b"sent while nobody was there" * 3]
    echo(guest, [frame_of(700, number) for number in range(20)])
    guest.drain()
    assert guest.pairs[0].tx.queue.free == 32
    assert guest.pairs[0].rx.queue.outstanding == 32
    bases = [payload for request, payload in second.seen.requests if request == 10]
    assert bases[1] == struct.pack("<II", 1, (65530 + 20) & 0xFFFF)


def test_stopping_gives_the_next_avail_index(lab: Lab) -> None:
    guest, _ = lab.pair(Config(first_index=1000))
    echo(guest, [frame_of(100)] * 7)
    assert guest.stop_rings() == [1007, 1007]


@pytest.mark.parametrize(
    ("behaviour", "config"),
    [
        (Behaviour(features=ALL_FEATURES & ~Feature.MRG_RXBUF.mask), Config()),
        (Behaviour(features=0), Config(features=Feature.MRG_RXBUF.mask)),
        (Behaviour(queue_pairs=1), Config(queue_pairs=2)),
    ],
)
def test_what_is_not_offered_is_named(lab: Lab, behaviour: Behaviour, config: Config) -> None:
    with pytest.raises(NotOfferedError):
        lab.pair(config, behaviour)


def test_a_back_end_without_protocol_features(lab: Lab) -> None:
    """Then no request goes out that needs one, and rings start enabled."""
    guest = lab.guest(Config(features=Feature.VERSION_1.mask | Feature.MRG_RXBUF.mask))
    back_end = lab.back_end(guest, Behaviour(features=ALL_FEATURES & ~(1 << 30)))
    for vring in back_end.vrings:
        vring.enabled = True
    guest.start()
    echo(guest, [frame_of(60)])
    assert not {15, 16, 17, 18, 19, 20} & set(back_end.seen.names())


@pytest.mark.parametrize("damage", ["index", "head", "written", "too-many-buffers", "no-buffers"])
def test_a_device_that_breaks_the_used_ring_is_caught(lab: Lab, damage: str) -> None:
    guest, _ = lab.pair(Config(), Behaviour(damage=damage))
    guest.send(frame_of(60))
    with pytest.raises(DeviceBrokenError):
        assert not guest.receive(5)
        guest.drain()


def test_a_guest_with_an_address_answers(lab: Lab) -> None:
    """The echoed question comes first, then the echoed answer."""
    guest, _ = lab.pair(Config(address=IPv4Address("10.0.0.1")))
    asker = Responder(bytes.fromhex("525400000002"), IPv4Address("10.0.0.1"))
    question = asker.announcement()
    guest.send(question)
    first, second = collect(guest, 2)
    assert first == question
    assert second[:12] == asker.mac + guest.config.mac


def test_header_size_follows_the_features() -> None:
    assert Config().header_size == 12
    assert Config(features=Feature.MRG_RXBUF.mask).header_size == 12
    assert replace(Config(), features=0).header_size == 10
