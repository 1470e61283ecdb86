# SPDX-License-Identifier: Apache-2.0
"""The capture of a port's pairs: which part each gets, and when none gets any."""

import os

import pytest

from ovs_vhost_plugin.ipc.commands import CaptureFrames
from ovs_vhost_plugin.jit.capture_ring import PART, RX
from ovs_vhost_plugin.worker import capture as module
from ovs_vhost_plugin.worker.capture import PortCapture
from ovs_vhost_plugin.worker.complaints import Complaints

WANTED = CaptureFrames(RX, 96)


class NotingPair:
    """A queue pair that notes its captures."""

    def __init__(self, index):
        self.index = index
        self.now = None

    def capture(self, capture):
        self.now = capture


def file_of(parts):
    fd = os.memfd_create("capture")
    os.ftruncate(fd, PART * parts)
    return fd


@pytest.fixture
def pairs():
    return [NotingPair(0), NotingPair(1)]


@pytest.fixture
def capture(pairs):
    made = PortCapture(pairs, 3, Complaints())
    yield made
    made.end()


def test_each_pair_writes_its_own_part(capture, pairs):
    fd = file_of(3)
    with os.fdopen(os.dup(fd), "rb") as file:
        capture.begin(WANTED, fd)
        late = NotingPair(2)
        pairs.append(late)
        capture.follow(late)
        for pair in pairs:
            assert (pair.now.directions, pair.now.snap, len(pair.now.part)) == (RX, 96, PART)
            pair.now.part[5] = 7 + pair.index
        whole = file.read()
    assert [whole[PART * i + 5] for i in range(3)] == [7, 8, 9]
    with pytest.raises(OSError):
        os.fstat(fd)  # it was taken over
    capture.end()
    assert [pair.now for pair in pairs] == [None] * 3


def test_a_pair_that_comes_without_a_capture_has_none(capture):
    late = NotingPair(2)
    capture.follow(late)
    assert late.now is None


def test_a_file_that_is_too_short_is_no_capture(capture, pairs):
    capture.begin(WANTED, file_of(3))
    capture.begin(WANTED, file_of(2))
    assert [pair.now for pair in pairs] == [None, None]
    assert capture._complaints.counts == {"capture-no-memory": 1}


def test_a_part_that_finds_no_memory_is_not_written(capture, pairs, monkeypatch):
    monkeypatch.setattr(module.mapping, "populate", lambda _view: False)
    capture.begin(WANTED, file_of(3))
    assert [pair.now for pair in pairs] == [None, None]
    assert capture._complaints.counts == {"capture-no-memory": 2}
