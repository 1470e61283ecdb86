# SPDX-License-Identifier: Apache-2.0
"""When a guest is announced, told as what a worker reports of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.announce.guests.guest import (
    MAX_BEFORE,
    NO_CHANGE,
    REMEMBERED,
    UNNAMED,
    GuestState,
)
from ovs_vhost_plugin.net.station import Station

MAC = bytes.fromhex("525400123456")
OTHER = Station(bytes.fromhex("525400123457"), 10)
THIRD = Station(bytes.fromhex("525400123458"), 20)


def tell(guest: GuestState, *story: object) -> list[str]:
    """Tell a story, a second to each part; return what followed from each."""
    followed = []
    for now, part in enumerate(story):
        match part:
            case int():
                change = guest.started(part, 0, now)
            case "ended":
                change = guest.ended(now)
            case str():
                change = guest.told(part, now)
        followed.append("stop" if change.stopped else change.trigger)
    return followed


@pytest.mark.parametrize(
    ("story", "followed"),
    [
        # a guest that boots here announces itself
        (["connecting", "connected", 0, "running"], ["", "", "", ""]),
        # never on connect alone, nor by rings whose guest does not run yet
        (["connecting", "connected", 700, "connected"], ["", "", "", ""]),
        (["connecting", "connected", 700, "running"], ["", "", "", "moved-in"]),
        # the report of the rings may be overtaken by the status
        (["connected", "running", 700], ["", "", "moved-in"]),
        # only once, whatever is told again
        (["connected", 700, "running", "running", "running"], ["", "", "moved-in", "", ""]),
        # a daemon that finds a running guest knows of no move
        (["running", "running"], ["", ""]),
        # out, and the migration was cancelled
        (
            ["connected", 0, "running", "connected", 9, "running"],
            ["", "", "", "stop", "", "resumed"],
        ),
        # out for good, and another moves in
        (
            ["connected", 0, "running", "connected", "connecting", "connected", 9, "running"],
            ["", "", "", "stop", "stop", "", "", "moved-in"],
        ),
        # the connection was lost while the guest ran
        (
            ["connected", 5, "running", "connecting", "connected", 7, "running"],
            ["", "", "moved-in", "stop", "", "", "reconnect"],
        ),
        # the worker was lost
        (
            ["connected", 0, "running", "ended", "connecting", "connected", 7, "running"],
            ["", "", "", "stop", "", "", "", "reconnect"],
        ),
        # a guest that was reset after the loss is a new one
        (
            ["running", "connecting", "connected", 0, "running", "connected", 8, "running"],
            ["", "stop", "", "", "", "stop", "", "resumed"],
        ),
        # a port that stops before its guest ran
        (["connected", 700, "connecting", "running"], ["", "", "stop", ""]),
    ],
)
def test_stories(story, followed):
    assert tell(GuestState(), *story) == followed


def test_who_comes_back_too_late_has_moved_in():
    guest = GuestState()
    tell(guest, "connected", 5, "running", "connecting")
    guest.started(9, 0, 4 + REMEMBERED)
    assert guest.told("running", 4 + REMEMBERED).trigger == "moved-in"


def test_what_is_known_goes_with_the_guest():
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.rarp(MAC)
    guest.uses((OTHER,), 3)
    assert guest.known(3) == (Station(MAC), OTHER)
    tell(guest, "connected")
    assert guest.known(4) == (Station(MAC), OTHER), "a migration may be cancelled"
    tell(guest, "connecting")
    assert guest.known(5) == ()


def test_what_is_known_survives_a_lost_worker_for_a_while():
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.uses((OTHER,), 2)
    tell(guest, "running", "running", "running", "ended")  # at 3
    guest.uses((), 4)  # the new worker knows nothing yet
    assert guest.known(4) == (OTHER,)
    assert guest.known(4 + REMEMBERED) == ()


def test_a_worker_that_comes_and_goes_with_ever_new_addresses_leaves_no_more_of_them():
    guest = GuestState()
    for now in range(20):
        tell(guest, "connected", 5, "running")
        new = (bytes([0x52, 0x54, 0, 0, now, n]) for n in range(MAX_BEFORE))
        guest.uses(tuple(map(Station, new)), now)
        tell(guest, "ended")
    guest.uses((), 20)
    assert len(guest.known(20)) == MAX_BEFORE


def test_a_guest_that_begins_anew_is_another():
    guest = GuestState()
    tell(guest, "connected")
    guest.rarp(MAC)
    tell(guest, 0, "running")
    assert guest.known(3) == ()


@given(
    st.lists(
        st.sampled_from(["connecting", "listening", "connected", "running", "ended"])
        | st.integers(0, 3)
    )
)
def test_nobody_is_announced_who_does_not_run(story):
    guest = GuestState()
    for now, part in enumerate(story):
        if isinstance(part, int):
            change = guest.started(part, 0, now)
        else:
            change = guest.ended(now) if part == "ended" else guest.told(part, now)
        assert guest.running or not change.trigger
        assert not (change.stopped and change.trigger)


def test_a_state_from_another_host_says_that_the_guest_moved_in_wherever_its_rings_begin() -> None:
    guest = GuestState()
    guest.told("connected", 1)
    guest.uses((OTHER,), 1)
    assert guest.started(0, 0, 2, moved_in=True).trigger == ""
    assert guest.told("running", 3).trigger == "moved-in"
    assert guest.known(3) == (OTHER,)


@pytest.mark.parametrize("told", ["between", "before", "after"])
def test_rings_that_begin_at_zero_before_one_that_was_used_make_nothing_forgotten(
    told: str,
) -> None:
    """Its rings begin one by one, and the front-end is slow; `told`: when its status is."""
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.rarp(MAC)
    guest.uses((OTHER,), 3)
    tell(guest, "connected")
    changes = [guest.told("running", 4)] if told == "before" else []
    changes += [guest.started(0, 7, 5)]
    changes += [guest.told("running", 6)] if told == "between" else []
    assert guest.known(6) == ()
    changes += [guest.started(9, 8, 7, further=True)]
    changes += [guest.told("running", 8)] if told == "after" else []
    assert [change.trigger for change in changes if change.trigger] == ["resumed"]
    assert guest.known(8) == (Station(MAC), OTHER)
    assert guest.sent_at_start == 7
    assert guest.started(10, 9, 9, further=True).trigger == "resumed", "the first was not told"


def test_what_was_told_since_they_began_counts_more() -> None:
    guest, new = GuestState(), Station(bytes.fromhex("525400123458"))
    tell(guest, "connected", 5, "running")
    guest.uses((OTHER,), 3)
    tell(guest, "connected", 0)
    guest.uses((new,), 4)
    guest.started(9, 0, 5, further=True)
    assert guest.known(5) == (new,)


@pytest.mark.parametrize("since", ["connected", "replaced"])
def test_what_is_another_guest_s_is_not_brought_back(since: str) -> None:
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.uses((OTHER,), 3)
    tell(guest, "connected", 0, "running")
    guest.replaced() if since == "replaced" else tell(guest, since)
    guest.started(9, 0, 5, further=True)
    assert guest.known(5) == ()


@pytest.mark.parametrize("later", ["runs", "waits"])
def test_a_state_from_another_host_says_it_once_whichever_ring_begins_later(later: str) -> None:
    guest = GuestState()
    guest.told("connected", 1)
    guest.uses((OTHER,), 1)
    guest.started(0, 0, 2, moved_in=True)
    if later == "runs":
        assert guest.told("running", 3).trigger == "moved-in"
        assert guest.started(9, 0, 4, further=True) == NO_CHANGE
    else:
        assert guest.started(9, 0, 3, further=True) == NO_CHANGE
        assert guest.told("running", 4).trigger == "moved-in"
    assert guest.known(4) == (OTHER,)


def test_an_unknown_guest_is_announced_by_what_its_first_frame_says():
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.unnamed("moved-in", 3)
    assert guest.uses((), 4) == NO_CHANGE
    assert guest.uses((OTHER,), 5).trigger == "moved-in"
    assert guest.uses((OTHER, Station(MAC)), 6) == NO_CHANGE, "once"


@pytest.mark.parametrize("meanwhile", ["rarp", "pause", "late"])
def test_it_is_not_where_that_is_no_longer_asked_for(meanwhile):
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.unnamed("moved-in", 3)
    if meanwhile == "rarp":
        guest.rarp(MAC)
    elif meanwhile == "pause":
        tell(guest, "connected", 6, "running")
    now = 4 + (UNNAMED if meanwhile == "late" else 0)
    assert guest.uses((OTHER,), now).trigger == ""


def test_another_guest_of_the_port_is_not_told_what_was_known_of_the_one_before():
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.rarp(MAC)
    guest.uses((OTHER,), 3)
    guest.replaced()
    assert guest.known(3) == ()
    guest.uses((OTHER,), 4)  # its worker is on its way out
    assert tell(guest, "ended", "connected", 7, "running") == ["stop", "", "", "moved-in"]
    assert guest.known(5) == ()
    guest.uses((OTHER,), 6)
    assert tell(guest, "connecting", "connected", 9, "running")[-1] == "reconnect"


def test_one_that_had_gone_before_is_forgotten_as_well():
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.uses((OTHER,), 3)
    tell(guest, "ended")
    guest.replaced()
    assert tell(guest, "connected", 7, "running")[-1] == "moved-in"


def test_stations_that_others_have_now_are_its_own_no_more():
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.uses((OTHER,), 3.0)
    tell(guest, "connecting")
    guest.rarp(MAC)
    guest.uses((THIRD,), 4.0)
    known = guest.known(5.0)
    assert known == (Station(MAC), THIRD, OTHER)
    for count, one in enumerate(known, start=1):
        guest.moved_on({one.key})
        assert guest.known(5.0) == known[count:]


def test_a_guest_whose_port_is_anothers_is_not_announced_for_what_it_was():
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.unnamed("moved-in", 3.0)
    guest.replaced()
    assert guest.uses((OTHER,), 3.5) == NO_CHANGE


@pytest.mark.parametrize(("late", "trigger"), [(0.0, "moved-in"), (0.1, "")])
def test_a_guest_without_a_name_is_announced_for_so_long_when_it_has_one(late, trigger):
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.unnamed("moved-in", 3.0)
    assert guest.uses((OTHER,), 3.0 + UNNAMED + late).trigger == trigger


@pytest.mark.parametrize(("late", "trigger"), [(0.0, "reconnect"), (0.1, "moved-in")])
def test_a_connection_is_remembered_for_so_long(late, trigger):
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.told("connecting", 10.0)
    back = 10.0 + REMEMBERED + late
    guest.told("connected", back)
    guest.started(7, 0, back)
    assert guest.told("running", back).trigger == trigger


def test_what_it_used_before_the_connection_was_lost_is_its_own_again_when_its_rings_go_on():
    """It was told that they began at zero: that would be another guest's."""
    guest = GuestState()
    tell(guest, "connected", 5, "running")
    guest.uses((OTHER,), 3.0)
    guest.told("connecting", 4.0)
    guest.uses((), 4.5)
    guest.told("connected", 5.0)
    guest.started(0, 0, 5.0)
    guest.told("running", 5.0)
    assert guest.known(5.0) == ()
    guest.started(7, 0, 6.0, further=True)
    assert guest.known(4.0 + REMEMBERED) == (OTHER,)
    assert guest.known(4.1 + REMEMBERED) == ()


def test_the_end_of_a_worker_without_a_guest_stops_nothing():
    guest = GuestState()
    assert guest.ended(1.0) == NO_CHANGE and guest.sent_at_start == 0
