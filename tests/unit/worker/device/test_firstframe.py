# SPDX-License-Identifier: Apache-2.0
"""When a guest's first frame is told, with pairs that count by hand."""

from typing import Any

from ovs_vhost_plugin.worker.device.firstframe import FirstFrame


class Pair:
    """A queue pair that has received frames before."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.counters = {"rx_packets": 7}
        self.tells_of_frames = False

    def tell_of_frames(self, tell: bool) -> None:
        self.tells_of_frames = tell

    def wake(self, received: int) -> None:
        """Deal with frames, of which so many are received."""
        assert self.tells_of_frames
        self.tells_of_frames = False
        self.counters["rx_packets"] += received


def watched(*pairs: Pair) -> tuple[FirstFrame, list[float]]:
    told: list[float] = []
    made: Any = list(pairs)
    return FirstFrame(made, told.append), told


def test_the_first_frame_is_told_once() -> None:
    pairs = Pair(0), Pair(1)
    first, told = watched(*pairs)
    first.handle_timer(1.0)
    assert not told and not pairs[0].tells_of_frames
    first.begin()
    first.handle_timer(2.0)
    assert not told
    pairs[1].wake(1)
    first.handle_timer(3.0)
    assert told == [3.0] and not pairs[0].tells_of_frames
    first.handle_timer(4.0)
    assert told == [3.0]


def test_a_frame_that_is_dropped_is_not_received() -> None:
    pair = Pair(0)
    first, told = watched(pair)
    first.begin()
    pair.wake(0)
    first.handle_timer(1.0)
    assert told == [] and pair.tells_of_frames
    pair.wake(2)
    first.handle_timer(2.0)
    assert told == [2.0]


def test_rings_that_begin_again_have_a_first_frame_again() -> None:
    pair = Pair(0)
    first, told = watched(pair)
    for at in (1.0, 2.0):
        first.begin()
        pair.wake(1)
        first.handle_timer(at)
    assert told == [1.0, 2.0]


def test_a_pair_that_comes_later_is_left_alone() -> None:
    pairs: Any = [Pair(0)]
    told: list[float] = []
    first = FirstFrame(pairs, told.append)
    first.begin()
    pairs.append(Pair(1))
    first.handle_timer(1.0)
    assert told == [] and pairs[0].tells_of_frames
