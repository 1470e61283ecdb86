# SPDX-License-Identifier: Apache-2.0
"""Frames through a real worker in every shape that a split ring can have; contents compared."""

import json
import os
import signal

import pytest
from support.system.soft_ports import (
    LARGEST,
    check_inward,
    check_outward,
    datagram,
    frame_of,
    receive,
    receive_all,
    settle,
)

from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

MODERN = Feature.VERSION_1.mask
MERGEABLE = MODERN | Feature.MRG_RXBUF.mask
INDIRECT = Feature.RING_INDIRECT_DESC.mask
EVENT_INDEX = Feature.RING_EVENT_IDX.mask
LEGACY = 0

USUAL = range(14, 1515)  # every length from a bare Ethernet header to a full frame
SOME = range(60, 1515, 29)
LARGE = (*SOME, 2048, 9014, 30_000, LARGEST)


def check_both_ways(port, config, sizes, pieces=None, burst=32):
    guest = port.guest(config)
    check_outward(port, guest, sizes, pieces)
    check_inward(port, guest, sizes, burst)
    counters = port.counters()
    assert counters["tx_packets"] == counters["rx_packets"] == len(sizes)
    assert counters["tx_bytes"] == counters["rx_bytes"] == sum(sizes)
    assert port.errors() == {}
    return guest


@pytest.mark.parametrize(
    "features",
    [MERGEABLE | EVENT_INDEX, MERGEABLE, MODERN | EVENT_INDEX, MODERN],
    ids=["mergeable-event-index", "mergeable", "event-index", "plain"],
)
def test_every_length_of_an_ordinary_frame(port, features):
    check_both_ways(port, Config(features=features), USUAL)


@pytest.mark.parametrize(
    ("features", "header_size"),
    [(LEGACY, 10), (LEGACY | Feature.MRG_RXBUF.mask, 12)],
    ids=["10-bytes", "12-bytes"],
)
def test_a_legacy_driver_with_its_header_in_a_descriptor_of_its_own(port, features, header_size):
    config = Config(features=features)
    assert config.header_size == header_size
    check_both_ways(port, config, SOME, pieces=[header_size, 2048])


@pytest.mark.parametrize("pieces", [[5, 3, 2], [12, 50, 200], None], ids=str)
def test_frames_cut_into_descriptors_of_any_length_direct_and_indirect(plug, pieces):
    # An indirect table of the guest's has room for 64 descriptors.
    longest = LARGEST if pieces is None else sum(pieces) + 60 * pieces[-1]
    sizes = [size for size in LARGE if size <= longest]
    for indirect in (False, True):
        config = Config(features=MERGEABLE | EVENT_INDEX | INDIRECT, indirect=indirect)
        check_both_ways(plug(), config, sizes, pieces, burst=2)


@pytest.mark.parametrize("pieces", [[64], [13], [1, 11, 1, 40]], ids=str)
def test_tiny_receive_buffers_are_merged(port, pieces):
    """A frame takes dozens of buffers, with the header itself spread over several descriptors."""
    config = Config(features=MERGEABLE | EVENT_INDEX, size=1024, receive_pieces=pieces)
    check_both_ways(port, config, SOME, burst=4)


def test_a_large_frame_without_mergeable_buffers_takes_one_long_chain(port):
    config = Config(features=MODERN | EVENT_INDEX, receive_pieces=[12, 100, *[4096] * 15], size=128)
    check_both_ways(port, config, LARGE, burst=2)


@pytest.mark.parametrize("size", [4, 64, 1024])
def test_rings_of_all_sizes(port, size):
    check_both_ways(port, Config(size=size), SOME, burst=min(size, 64))


def test_indices_wrap_around(port):
    config = Config(first_index=65_500, size=64)
    guest = check_both_ways(port, config, USUAL)
    assert guest.stop_rings() == [(65_500 + len(USUAL)) % 65_536] * 2


def test_a_frame_longer_than_the_buffers_at_hand_waits_for_more(port):
    """Nothing of it is lost or cut, and the frames behind it keep their order."""
    guest = port.guest(Config(size=32, receive_pieces=[1024]))  # 32 KiB in all
    frames = [frame_of(size) for size in (20_000, 20_000, 60, 31_000, 1514, 25_000)]
    port.inject(*frames)
    assert receive(guest, len(frames)) == frames


def test_a_frame_longer_than_all_buffers_is_dropped_by_name_and_the_next_one_comes(port):
    guest = port.guest(Config(size=16, receive_pieces=[1024]))
    port.inject(frame_of(30_000), after := frame_of(60))
    assert receive(guest, 1) == [after]
    assert port.counters()["rx_dropped_too_long"] == 1


@pytest.mark.parametrize("pairs", [2, 4])
def test_an_answer_comes_to_the_queue_pair_that_asked(plug, pairs):
    port = plug(queues=pairs)
    guest = port.guest(Config(queue_pairs=pairs))
    questions = [datagram(1000 + flow, 60 + flow, outward=True) for flow in range(8 * pairs)]
    with port.capture() as capture:
        for flow, question in enumerate(questions):
            guest.send(question, queue=flow % pairs)
        guest.drain()
        assert sorted(port.sent(capture, len(questions))) == sorted(questions)
    answers = [datagram(1000 + flow, 1000 + flow) for flow in range(8 * pairs)]
    port.inject(*answers)
    received = receive_all(guest, len(answers))
    expected = [(flow % pairs, answer) for flow, answer in enumerate(answers)]
    assert sorted((queue, got.frame) for queue, got in received) == sorted(expected)
    assert [port.counters(pair)["tx_packets"] for pair in range(pairs)] == [8] * pairs


def test_a_pair_that_is_disabled_gets_no_frame_and_the_others_get_them_all(plug):
    port = plug(queues=2)
    guest = port.guest(Config(queue_pairs=2))
    guest.frontend.enable_vring(2, False)
    settle(guest)
    frames = [datagram(1000 + flow, 100) for flow in range(32)]
    port.inject(*frames)
    received = receive_all(guest, len(frames))
    assert {queue for queue, _ in received} == {0}
    assert sorted(got.frame for _, got in received) == sorted(frames)


def test_a_disabled_ring_discards_what_the_guest_sends_and_receives_nothing(port):
    """vhost-user "Ring states": started but disabled."""
    guest = port.guest(Config())
    for vring in (0, 1):
        guest.frontend.enable_vring(vring, False)
    settle(guest)
    with port.capture() as capture:
        for _ in range(10):
            guest.send(frame_of(100, outward=True))
        guest.drain()  # processed: the guest has its buffers back
        port.inject(*[frame_of(100) for _ in range(10)])
        assert guest.receive(0.2) == []
        guest.frontend.enable_vring(0, True)
        guest.frontend.enable_vring(1, True)
        settle(guest)
        check_outward(port, guest, [200])
        assert [len(frame) for frame in port.sent(capture, 1)] == [200]
    counters = port.counters()
    assert counters["tx_dropped_disabled"] == 10
    assert counters["tx_packets"] == 1
    # Nothing of what came meanwhile is delivered late.
    port.wait_carrier()
    check_inward(port, guest, [300])


def test_all_that_a_usual_driver_acknowledges_at_once(port):
    check_both_ways(port, Config(features=FEATURES, indirect=True), LARGE, burst=2)


@pytest.mark.parametrize("pair", [0, 1])
def test_frames_that_wait_go_together(plug, pair):
    """Where the daemon has found that an io_uring pays, each pair of the few has one."""
    port = plug(queues=2)
    together = json.loads(port.host.appctl("vhost/show", "--format", "json"))["tap_io"]
    frames = [frame_of(size, outward=True) for size in USUAL[:200]]
    guest = port.guest(Config(features=MERGEABLE, queue_pairs=2))
    wait_until(lambda: len(port.stats()["queue_pairs"]) == 2, "both pairs")
    with port.capture() as capture:
        os.kill(port.pid, signal.SIGSTOP)
        for frame in frames:
            guest.send(frame, pair)
        os.kill(port.pid, signal.SIGCONT)
        guest.drain()
        assert port.sent(capture, len(frames)) == frames
    assert (port.counters(pair)["tx_batched"] > 0) is together.startswith("io_uring")
