# SPDX-License-Identifier: Apache-2.0
"""One announcement: what a further request changes, and when the next attempt is due."""

import pytest

from ovs_vhost_plugin.announce.announcement import (
    DEADLINE,
    INJECT_AFTER,
    INJECT_PAUSES,
    MAX_INJECTIONS,
    PAUSES,
    Announcement,
    Request,
)
from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.openflow.wire import Output

MAC = bytes.fromhex("525400123456")
HOME = Location("br0", 2, "/run/br0.mgmt")
BARE, NAMED = Station(MAC), Station(MAC, ipv4=(bytes([192, 0, 2, 1]),))
FIRST = Request("vhu0", BARE, "moved-in", 1.0)
LATER = Request("vhu0", NAMED, "send-rarp", 2.0, Policy(output=Output.NORMAL))


@pytest.fixture
def begun() -> Announcement:
    return Announcement(FIRST, 10.0)


def attempt(announcement, *, injected=False, at=10.0):
    announcement.sent(HOME, (rarp(MAC),), at, injected=injected)


def test_before_anything_was_sent_a_result_claims_nothing(begun):
    assert (begun.deadline, begun.due_at, begun.inject_at) == (
        10.0 + DEADLINE,
        10.0,
        10.0 + INJECT_AFTER,
    )
    result = begun.result()
    assert (result.outcome, result.reason, result.confirmed_by) == (Outcome.NOT_LEARNED, "", "")
    assert (result.requests, result.attempts, result.frames) == (1, 0, 0)
    assert (result.location, result.sent_at, result.learned_at) == (None, None, None)


def test_a_request_in_time_gives_the_frames_what_is_known_now(begun):
    assert begun.join(LATER)
    assert (begun.request.station, begun.request.policy) == (NAMED, LATER.policy)
    assert (begun.request.trigger, begun.request.received_at) == ("moved-in", 1.0)
    assert (begun.requests, begun.successor) == (2, None)


def test_requests_that_come_too_late_are_one_successor_since_the_first_of_them(begun):
    attempt(begun)
    assert not begun.join(Request("vhu0", BARE, "port-moved", 11.0))
    assert begun.join(LATER)
    assert begun.successor == Request("vhu0", NAMED, "port-moved", 11.0, LATER.policy)
    assert (begun.requests, begun.successor_requests) == (1, 2)


def test_packet_outs_pause_by_their_own_number_whatever_was_injected_before(begun):
    attempt(begun, injected=True)
    assert begun.retry(Outcome.NOT_LEARNED, "not in the MAC table", 10.0)
    assert begun.due_at == 10.0 + INJECT_PAUSES[0]
    for pause in PAUSES:
        attempt(begun)
        assert begun.retry(Outcome.NOT_LEARNED, "not in the MAC table", 20.0)
        assert begun.waiting and begun.due_at == 20.0 + pause
    attempt(begun)
    assert not begun.retry(Outcome.NOT_LEARNED, "not in the MAC table", 20.0)


@pytest.mark.parametrize("refused", [True, False])
def test_the_last_injection_is_the_end_only_where_the_switch_refuses(begun, refused):
    if refused:
        attempt(begun)
        assert begun.retry(Outcome.REFUSED, "EPERM", 10.0)
    for pause in INJECT_PAUSES:
        attempt(begun, injected=True)
        assert begun.retry(Outcome.NOT_LEARNED, "not there", 20.0)
        assert begun.due_at == 20.0 + pause
    attempt(begun, injected=True)
    assert begun.retry(Outcome.NOT_LEARNED, "not there", 30.0) is not refused
    assert begun.injections == MAX_INJECTIONS
    if not refused:
        assert begun.due_at == 30.0


def test_the_tap_is_told_of_until_a_packet_out_confirms(begun):
    begun.hinder("OpenFlow: closed")
    assert begun.reason == "OpenFlow: closed"
    attempt(begun, injected=True)
    begun.confirmed(Outcome.LEARNED, "fdb", 10.5)
    assert begun.result().reason == "injected, OpenFlow: closed"
    attempt(begun)
    begun.confirmed(Outcome.LEARNED, "flow", 11.0)
    result = begun.result()
    assert (result.reason, result.confirmed_by, result.learned_at) == ("", "flow", 11.0)


@pytest.mark.parametrize(
    ("output", "injected", "past"),
    [
        (Output.NORMAL, False, True),
        (Output.NORMAL, True, False),
        (Output.TABLE, False, False),
    ],
)
def test_only_a_packet_out_to_normal_goes_past_the_flows(output, injected, past):
    announcement = Announcement(Request("vhu0", BARE, "manual", 1.0, Policy(output=output)), 1.0)
    attempt(announcement, injected=injected)
    assert announcement.past_the_table is past
