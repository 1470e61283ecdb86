# SPDX-License-Identifier: Apache-2.0
"""What a session remembers before its front-end has said anything, and what a ring needs to run."""

import os

import pytest

from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.state import PostcopyPhase, SessionState, VringState


def test_a_front_end_that_has_said_nothing_has_asked_for_nothing() -> None:
    state = SessionState(offer(queue_pairs=2, mtu=None))
    values = vars(state).items()
    assert [name for name, value in values if value is True] == ["link_up"]
    assert [name for name, value in values if value is None] == ["guest_mtu"]
    assert (state.features, state.protocol_features, state.status) == (0, 0, 0)
    assert state.postcopy is PostcopyPhase.OFF and state.reply_fds == ()
    assert state.mac == bytes(6) and state.net_config.mtu == 0
    assert not state.set_up and not state.started and not state.packed
    assert [vring.index for vring in state.vrings] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("lacks", "ready"),
    [
        ({}, True),
        ({"started": False}, False),
        ({"enable_told": False}, False),
        ({"addressed": False}, False),
        ({"size": 0}, False),
        ({"size": 1}, True),
    ],
)
def test_a_ring_runs_when_all_of_it_is_there(lacks: dict[str, int], ready: bool) -> None:
    said = {"started": True, "enable_told": True, "addressed": True, "size": 256}
    assert VringState(0, **{**said, **lacks}).ready() is ready  # type: ignore[arg-type]


def test_a_reset_ring_keeps_how_its_front_end_is_called_and_nothing_else() -> None:
    vring = VringState(3, size=8, base=7, kick_fd=10, call_fd=11, err_fd=12, started=True)
    vring.kick_told = vring.call_told = vring.err_told = vring.base_told = True
    assert vring.reset() == 10
    assert vring == VringState(3, call_fd=11, err_fd=12, call_told=True, err_told=True)


def test_a_closed_ring_has_no_fds() -> None:
    fds = [os.eventfd(0) for _ in range(3)]
    vring = VringState(0, kick_fd=fds[0], call_fd=fds[1], err_fd=fds[2])
    vring.close()
    assert vring == VringState(0)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    vring.close()
