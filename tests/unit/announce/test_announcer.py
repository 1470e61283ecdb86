# SPDX-License-Identifier: Apache-2.0
"""The announcer against a switch that is a few lines of Python, on a clock that is a number."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovs_vhost_plugin.announce.actions import AskTable, AskTrace, InjectFrames, PacketOut
from ovs_vhost_plugin.announce.announcement import (
    DEADLINE,
    MAX_ATTEMPTS,
    MAX_INJECTIONS,
    PAUSES,
    SLB_LOCK,
    Request,
)
from ovs_vhost_plugin.announce.announcer import Announcer
from ovs_vhost_plugin.announce.frames.announcements import gratuitous_arp, rarp
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.announce.triggers import Trigger
from ovs_vhost_plugin.announce.under_way import (
    ATTEMPT_BURST,
    ATTEMPT_RATE,
    MAX_UNDER_WAY,
    REMEMBERED,
    UnderWay,
)
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.net.vlan import PortVlan, VlanMode
from ovs_vhost_plugin.openflow.wire import Output

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400123457")
HOME = Location("br0", 2, "/run/br0.mgmt")


FLOODED = "0. priority 0\n    NORMAL\n     -> no learned MAC\nDatapath actions: 1,2,3\n"


def row(port: int | str, vlan: int, mac: bytes) -> str:
    return f"{port:>5}  {vlan:4}  {mac.hex(':')}    0\n"


def ask(port: str, mac: bytes, received_at: float) -> Request:
    return Request(port, Station(mac), "send-rarp", received_at)


class Switch:
    """Learns what is sent, if `learns`; notes every action."""

    def __init__(self, announcer: Announcer, learns: bool = True) -> None:
        self.announcer = announcer
        self.learns = learns
        self.obstacle: str | None = None
        self.table: dict[tuple[str, bytes, int], int] = {}
        self.sent: list[tuple[float, PacketOut]] = []
        self.injected: list[tuple[float, str, tuple[bytes, ...]]] = []
        self.worker = True
        self.trace = FLOODED
        self.passage: Callable[[bytes], str] = lambda _: FLOODED
        self.traced: list[tuple[str, bytes]] = []
        self.flows: list[str] = []
        self.questions = 0

    def turn(self, now: float) -> None:
        """Carry out and answer everything at once."""
        while actions := self.announcer.run(now, lambda _: self.obstacle):
            for action in actions:
                match action:
                    case PacketOut(token, place, (frame, *_)):
                        self.sent.append((now, action))
                        if self.learns:
                            self.table[place.bridge, frame[6:12], place.vlan.tag] = place.ofport
                        self.announcer.delivered(token)
                    case AskTable(bridge):
                        self.questions += 1
                        self.announcer.table(bridge, self.text(bridge), now)
                    case AskTrace(token, _, flow, b""):
                        self.flows.append(flow)
                        self.announcer.trace(token, self.trace, now)
                    case AskTrace(token, _, flow, frame):
                        self.traced.append((flow, frame))
                        self.announcer.trace(token, self.passage(frame), now)
                    case InjectFrames(token, port, frames):
                        self.injected.append((now, port, frames))
                        if self.worker:
                            self.announcer.delivered(token)
                        else:
                            self.announcer.failed(token, Outcome.NOT_LEARNED, "no worker", now)

    def text(self, bridge: str) -> str:
        rows = [
            row(port, vlan, mac) for (br, mac, vlan), port in self.table.items() if br == bridge
        ]
        return " port  VLAN  MAC                Age\n" + "".join(rows)

    def run_until(self, now: float, done: Callable[[], bool]) -> None:
        """Turn until `done`."""
        for _ in range(1000):
            self.turn(now)
            if done():
                return
            now = self.announcer.get_timer()
        raise AssertionError("never")

    def run_until_idle(self, now: float) -> float:
        """Turn whenever the announcer wants to be woken; return the time of the last turn."""
        for _ in range(10_000):
            self.turn(now)
            wake_at = self.announcer.get_timer()
            if wake_at is None:
                return now
            assert wake_at > now, "the announcer asks to be woken for nothing: a busy loop"
            now = wake_at
        raise AssertionError("never idle")


@pytest.fixture
def announcer() -> Announcer:
    announcer = Announcer()
    announcer.set_locations({"vhu0": HOME})
    return announcer


def only_result(announcer: Announcer):
    (result,) = announcer.take_results()
    return result


def test_a_request_becomes_one_rarp_on_the_guests_own_port_and_is_confirmed(announcer):
    announcer.request(ask("vhu0", MAC, received_at=9.999), now=10.0)
    (packet_out,) = announcer.run(10.0, lambda _: None)
    assert (packet_out.location, packet_out.frames) == (HOME, (rarp(MAC),))
    announcer.delivered(packet_out.token)
    assert announcer.run(10.001, lambda _: None) == [AskTable("br0")]
    announcer.table("br0", row(2, 0, MAC), 10.002)
    (question,) = announcer.run(10.002, lambda _: None)
    assert (question.flow, question.frame) == ("in_port=2", rarp(MAC))
    announcer.trace(question.token, FLOODED, 10.0021)
    result = only_result(announcer)
    assert result.summary() == "52:54:00:12:34:56 learned 3.1ms send-rarp"
    assert (result.received_at, result.sent_at, result.learned_at) == (9.999, 10.0, 10.0021)
    assert (result.attempts, result.requests, result.reason) == (1, 1, "")
    assert announcer.get_timer() is not None
    assert announcer.run(10.003, lambda _: None) == []
    assert announcer.get_timer() is None


def test_history_keeps_the_time_line_as_plain_values(announcer):
    announcer.request(ask("vhu0", MAC, 9.5), 10.0)
    Switch(announcer).turn(10.0)
    (result,) = announcer.history
    assert announcer.counters == {"requests": 1, "packet-outs": 1, "learned": 1}
    assert result.as_dict() == {
        "port": "vhu0",
        "mac": "52:54:00:12:34:56",
        "vlan": 0,
        "trigger": "send-rarp",
        "outcome": "learned",
        "reason": "",
        "requests": 1,
        "attempts": 1,
        "frames": 1,
        "confirmed_by": "fdb",
        "bridge": "br0",
        "ofport": 2,
        "tag": None,
        "received_at": 9.5,
        "sent_at": 10.0,
        "learned_at": 10.0,
        "milliseconds": 500.0,
    }


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("", "not in the MAC table"),
        (row(3, 0, MAC), "on port 3"),
        (row("LOCAL", 0, MAC), "on port LOCAL"),
        (row(2, 10, MAC), "not in VLAN 0"),
        (row(2, 0, OTHER), "not in the MAC table"),
    ],
)
def test_what_is_not_learned_is_tried_again_a_bounded_number_of_times(announcer, table, reason):
    switch = Switch(announcer)
    switch.text = lambda bridge: table
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until_idle(0.0)
    assert [time for time, _ in switch.sent] == pytest.approx(
        [sum(PAUSES[:index]) for index in range(MAX_ATTEMPTS)]
    )
    assert announcer.counters["packet-outs"] == MAX_ATTEMPTS
    asked = 0 if "port" in reason else MAX_ATTEMPTS  # a table that has it elsewhere is enough
    assert len(switch.flows) == asked
    result = only_result(announcer)
    assert result.outcome is Outcome.NOT_LEARNED
    assert result.summary() == f"52:54:00:12:34:56 not-learned send-rarp: {reason}"
    assert result.learned_at is None


def test_a_later_attempt_may_succeed(announcer):
    switch = Switch(announcer, learns=False)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.turn(0.0)
    switch.learns = True
    switch.run_until_idle(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.attempts, result.reason) == (Outcome.LEARNED, 2, "")
    assert (result.sent_at, result.learned_at) == (0.0, PAUSES[0])


def test_the_vlan_of_an_access_port_is_where_the_mac_has_to_be(announcer):
    announcer.set_locations(
        {"vhu0": Location("br0", 2, "/run/br0.mgmt", PortVlan(VlanMode.ACCESS, 10))}
    )
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    Switch(announcer).turn(0.0)
    assert only_result(announcer).outcome is Outcome.LEARNED


def test_an_answer_that_was_asked_for_before_the_frame_was_delivered_proves_nothing(announcer):
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    (first,) = announcer.run(0.0, lambda _: None)
    announcer.delivered(first.token)
    assert announcer.run(0.0, lambda _: None) == [AskTable("br0")]
    announcer.request(ask("vhu0", OTHER, 0.0), 0.0)
    (second,) = announcer.run(0.0, lambda _: None)
    announcer.delivered(second.token)
    assert announcer.run(0.0, lambda _: None) == [], "one question at a time"
    announcer.table("br0", row(2, 0, MAC), 0.001)
    again, traced = announcer.run(0.001, lambda _: None)
    announcer.trace(traced.token, FLOODED, 0.001)
    assert only_result(announcer).mac == MAC
    assert again == AskTable("br0")
    announcer.table("br0", row(2, 0, OTHER), 0.002)
    (traced,) = announcer.run(0.002, lambda _: None)
    announcer.trace(traced.token, FLOODED, 0.002)
    assert only_result(announcer).mac == OTHER


def test_requests_before_the_frame_went_out_are_answered_by_it(announcer):
    for _ in range(5):
        announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch = Switch(announcer)
    switch.turn(0.0)
    assert len(switch.sent) == 1
    assert only_result(announcer).requests == 5
    assert (announcer.counters["requests"], announcer.counters["merged"]) == (5, 4)


def test_requests_while_one_is_under_way_get_one_more_frame_after_it(announcer):
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    (first,) = announcer.run(0.0, lambda _: None)
    for index in range(5):
        announcer.request(ask("vhu0", MAC, 0.1 + index / 1e3), 0.1)
    assert announcer.run(0.1, lambda _: None) == []
    announcer.delivered(first.token)
    switch = Switch(announcer)
    switch.table["br0", MAC, 0] = HOME.ofport
    switch.turn(0.2)
    assert [time for time, _ in switch.sent] == [0.2]
    first_result, second_result = announcer.take_results()
    assert (first_result.requests, second_result.requests) == (1, 5)
    assert second_result.received_at == 0.1
    assert announcer.counters["merged"] == 4


def test_one_table_answers_for_all_stations_of_a_bridge(announcer):
    switch = Switch(announcer)
    for mac in (MAC, OTHER):
        announcer.request(ask("vhu0", mac, 0.0), 0.0)
    switch.turn(0.0)
    assert switch.questions == 1
    assert [one.outcome for one in announcer.take_results()] == [Outcome.LEARNED] * 2


def test_a_station_in_a_vlan_that_the_port_does_not_carry_costs_no_other_its_answer(announcer):
    trunk = PortVlan(trunks=frozenset({5}))
    announcer.set_locations({"vhu0": replace(HOME, vlan=trunk)})
    switch = Switch(announcer)
    switch.text = lambda _: row(2, 5, MAC)
    for vlan in (10, 5):
        announcer.request(Request("vhu0", Station(MAC, vlan), "moved-in", 0.0), 0.0)
    switch.turn(0.0)
    assert only_result(announcer).vlan == 5
    switch.run_until_idle(0.0)
    result = only_result(announcer)
    assert (result.vlan, result.outcome) == (10, Outcome.NOT_LEARNED)
    assert result.reason == "the port does not carry VLAN 10"


def test_the_first_openflow_number_is_one(announcer):
    announcer.set_locations({"vhu0": replace(HOME, ofport=1)})
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    Switch(announcer).turn(0.0)
    assert only_result(announcer).outcome is Outcome.LEARNED


def test_an_ofport_that_is_not_known_yet_is_waited_for(announcer):
    announcer.set_locations({"vhu0": Location("br0", -1, "/run/br0.mgmt")})
    switch = Switch(announcer)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.turn(0.0)
    assert switch.sent == []
    announcer.set_locations({"vhu0": HOME})
    switch.turn(1.0)
    assert only_result(announcer).milliseconds == 1000.0


@pytest.mark.parametrize("locations", [{}, {"vhu0": Location("br0", -1, "/run/br0.mgmt")}])
def test_an_ofport_that_never_comes_is_not_waited_for_for_ever(locations):
    announcer = Announcer()
    announcer.set_locations(locations)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    assert Switch(announcer).run_until_idle(0.0) == DEADLINE
    assert only_result(announcer).summary().endswith("not-learned send-rarp: ofport unknown")


def test_a_bridge_that_cannot_be_reached_costs_no_attempt_and_is_waited_for(announcer):
    switch = Switch(announcer)
    switch.obstacle = "Connection refused"
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.turn(0.0)
    assert switch.sent == []
    switch.obstacle = None
    switch.turn(3.0)
    assert only_result(announcer).attempts == 1


def test_each_attempt_goes_where_the_port_is_then(announcer):
    moved = Location("br1", 7, "/run/br1.mgmt", PortVlan(VlanMode.ACCESS, 5))
    switch = Switch(announcer, learns=False)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.turn(0.0)
    announcer.set_locations({"vhu0": moved})
    switch.learns = True
    switch.run_until_idle(0.0)
    assert [packet_out.location for _, packet_out in switch.sent] == [HOME, moved]
    assert only_result(announcer).location == moved


def test_what_the_switch_refuses_goes_by_the_tap(announcer):
    switch = Switch(announcer, learns=False)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    (packet_out,) = announcer.run(0.0, lambda _: None)
    announcer.failed(packet_out.token, Outcome.REFUSED, "BAD_REQUEST/EPERM", 0.0)
    switch.run_until_idle(0.0)
    assert [sent[1:] for sent in switch.injected] == [("vhu0", (rarp(MAC),))] * MAX_INJECTIONS
    assert switch.sent == []
    assert announcer.counters["injections"] == MAX_INJECTIONS
    assert only_result(announcer).summary() == (
        "52:54:00:12:34:56 injected send-rarp: BAD_REQUEST/EPERM; not in the MAC table"
    )


def test_what_cannot_be_reached_is_injected_until_the_switch_has_learned(announcer):
    switch = Switch(announcer, learns=False)
    switch.obstacle = "Connection refused"
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.turn(0.0)
    assert switch.injected == [], "a bridge that is just being connected to gets its chance"
    switch.run_until(0.0, lambda: len(switch.injected) == 2)
    switch.table["br0", MAC, 0] = HOME.ofport
    switch.run_until_idle(switch.injected[-1][0])
    result = only_result(announcer)
    assert result.summary().endswith("send-rarp: injected, OpenFlow: Connection refused")
    assert (result.outcome, result.attempts) == (Outcome.LEARNED, 3)


def test_a_bridge_that_comes_back_after_injections_gets_its_packet_out(announcer):
    switch = Switch(announcer, learns=False)
    switch.obstacle = "Connection refused"
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until(0.0, lambda: len(switch.injected) == MAX_INJECTIONS)
    switch.obstacle, switch.learns = None, True
    switch.turn(5.0)
    result = only_result(announcer)
    assert (result.outcome, result.reason, len(switch.sent)) == (Outcome.LEARNED, "", 1)


def test_injections_that_no_worker_made_are_not_claimed(announcer):
    switch = Switch(announcer)
    switch.obstacle, switch.worker = "Connection refused", False
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    assert switch.run_until_idle(0.0) == DEADLINE
    result = only_result(announcer)
    assert (result.outcome, result.reason) == (
        Outcome.NOT_LEARNED,
        "OpenFlow: Connection refused",
    )


def test_an_injection_that_was_made_is_claimed_whatever_came_after_it(announcer):
    switch = Switch(announcer, learns=False)
    switch.obstacle = "Connection refused"
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until(0.0, lambda: switch.injected)
    switch.obstacle = None
    switch.run_until(announcer.get_timer(), lambda: switch.sent)
    switch.obstacle, switch.worker = "Connection refused", False
    switch.run_until_idle(announcer.get_timer())
    assert only_result(announcer).outcome is Outcome.INJECTED


def test_injections_that_nobody_confirms_are_told_as_such(announcer):
    switch = Switch(announcer)
    switch.obstacle = "Connection refused"
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    assert switch.run_until_idle(0.0) == DEADLINE
    result = only_result(announcer)
    assert result.outcome is Outcome.INJECTED
    assert result.reason == "OpenFlow: Connection refused; not in the MAC table"


def test_a_learned_flow_confirms_where_the_mac_table_does_not(announcer):
    switch = Switch(announcer, learns=False)
    switch.trace = "    output:NXM_NX_REG0[]\n     -> output port is 2\nDatapath actions: 7\n"
    announcer.request(replace(ask("vhu0", MAC, 0.0), station=Station(MAC, 10)), 0.0)
    switch.turn(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.confirmed_by) == (Outcome.LEARNED, "flow")
    assert switch.flows == ["in_port=LOCAL,dl_dst=52:54:00:12:34:56,dl_vlan=10"]


DROPPED = " 0. rarp, priority 10\n    drop\nDatapath actions: drop\n"
KEPT = " 0. priority 0\n    NORMAL\n     -> no learned MAC, flooding\nDatapath actions: drop\n"


@pytest.mark.parametrize(
    ("passage", "outcome", "reason"),
    [
        (DROPPED, Outcome.NOT_LEARNED, "the bridge's flows drop it"),
        (KEPT, Outcome.ISOLATED, "no other port of the bridge gets what this one sends"),
    ],
)
def test_an_entry_from_before_is_not_taken_for_an_announcement_that_got_nowhere(
    announcer, passage, outcome, reason
):
    switch = Switch(announcer)
    switch.passage = lambda _: passage
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until_idle(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.reason, result.attempts) == (outcome, reason, MAX_ATTEMPTS)
    assert result.learned_at is None


def test_one_kind_of_frame_that_gets_through_is_enough(announcer):
    """As where flows drop all RARP: the gratuitous ARP teaches the bridge as well."""
    switch = Switch(announcer)
    switch.passage = lambda frame: DROPPED if frame[12:14] == b"\x80\x35" else FLOODED
    addresses = (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))
    station = Station(MAC, ipv4=addresses, ipv6=(b"\xfe\x80" + bytes(13) + b"\1",))
    announcer.request(replace(ask("vhu0", MAC, 0.0), station=station), 0.0)
    switch.run_until_idle(0.0)
    assert only_result(announcer).outcome is Outcome.LEARNED
    assert [frame[12:14] for _, frame in switch.traced] == [b"\x80\x35", b"\x08\x06"]


def test_what_goes_past_the_flow_table_is_not_asked_of_it(announcer):
    switch = Switch(announcer)
    switch.passage = lambda _: DROPPED
    announcer.request(replace(ask("vhu0", MAC, 0.0), policy=Policy(output=Output.NORMAL)), 0.0)
    switch.run_until_idle(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.learned_at, result.confirmed_by) == (Outcome.LEARNED, 0.0, "fdb")
    assert switch.traced == []


def test_past_the_flow_table_a_learned_flow_is_enough(announcer):
    switch = Switch(announcer, learns=False)
    switch.trace = "     -> output port is 2\nDatapath actions: 7\n"
    announcer.request(replace(ask("vhu0", MAC, 0.0), policy=Policy(output=Output.NORMAL)), 0.0)
    switch.run_until_idle(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.learned_at) == (Outcome.LEARNED, 0.0)
    assert (result.confirmed_by, switch.traced) == ("flow", [])


def test_any_member_of_a_bond_is_the_place(announcer):
    """The MAC table names whichever it likes."""
    announcer.set_locations({"vhu0": replace(HOME, ofport=3, members=(2, 3))})
    switch = Switch(announcer)
    switch.text = lambda _: row(2, 0, MAC)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until_idle(0.0)
    assert only_result(announcer).outcome is Outcome.LEARNED


def test_a_bond_that_takes_nothing_by_one_of_our_ports_gets_it_by_the_other(announcer):
    """It takes broadcasts by its active member alone."""
    announcer.set_locations({"vhu0": replace(HOME, ofport=3, members=(2, 3, 9), mates=(2, 3))})
    switch = Switch(announcer, learns=False)
    switch.text = lambda _: row(9, 0, MAC)
    switch.passage = lambda _: FLOODED if len(switch.sent) > 1 else DROPPED
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until_idle(0.0)
    assert (only_result(announcer).outcome, len(switch.sent)) == (Outcome.LEARNED, 2)
    assert [action.location.ofport for _, action in switch.sent] == [3, 2]
    assert [flow for flow, _ in switch.traced] == ["in_port=3", "in_port=2"]


def test_a_balance_slb_bond_gets_a_garp_of_no_address_where_none_is_known(announcer):
    announcer.set_locations({"vhu0": replace(HOME, slb=True)})
    known = bytes([192, 0, 2, 1])
    for station in (Station(MAC), Station(OTHER, ipv4=(known,))):
        announcer.request(replace(ask("vhu0", MAC, 0.0), station=station), 0.0)
    actions = announcer.run(0.0, lambda _: None)
    assert [action.frames for action in actions] == [
        (rarp(MAC), gratuitous_arp(MAC, bytes(4))),
        (rarp(OTHER), gratuitous_arp(OTHER, known)),
    ]


def test_a_balance_slb_bond_is_tried_by_each_member_when_the_bridge_may_believe_it_again(announcer):
    """A bridge that has had a gratuitous ARP of the MAC by another port locks it for a while."""
    announcer.set_locations({"vhu0": replace(HOME, slb=True, members=(2, 3), mates=(2, 3))})
    switch = Switch(announcer, learns=False)
    locked_until = SLB_LOCK - 0.01
    switch.text = lambda _: row(1 if switch.sent[-1][0] < locked_until else 2, 0, MAC)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until_idle(0.0)
    assert only_result(announcer).outcome is Outcome.LEARNED
    assert [at >= locked_until for at, _ in switch.sent] == [False] * MAX_ATTEMPTS + [True]

    switch.sent.clear()
    switch.text = lambda _: row(1, 0, MAC)
    announcer.request(ask("vhu0", MAC, 20.0), 20.0)
    switch.run_until_idle(20.0)
    assert (only_result(announcer).outcome, len(switch.sent)) == (Outcome.NOT_LEARNED, 10)
    late = {place.location.ofport for at, place in switch.sent if at >= 20.0 + SLB_LOCK}
    assert late == {2, 3}


def test_a_port_that_does_not_forward_yet_is_waited_for(announcer):
    waiting = replace(HOME, hindered="RSTP: Discarding")
    announcer.set_locations({"vhu0": waiting})
    switch = Switch(announcer)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.turn(0.0)
    assert (switch.sent, announcer.take_results()) == ([], [])
    announcer.set_locations({"vhu0": HOME})
    switch.turn(3.0)
    assert only_result(announcer).summary() == "52:54:00:12:34:56 learned 3000.0ms send-rarp"
    announcer.set_locations({"vhu0": waiting})
    announcer.request(ask("vhu0", OTHER, 4.0), 4.0)
    switch.run_until_idle(4.0)
    result = only_result(announcer)
    assert result.outcome is Outcome.NOT_LEARNED
    assert result.reason == "the port does not forward yet (RSTP: Discarding)"


@pytest.mark.parametrize(
    "vlan",
    [
        PortVlan(VlanMode.ACCESS, 4095),
        PortVlan(trunks=frozenset({4095})),
        PortVlan(VlanMode.DOT1Q_TUNNEL, 4095),
    ],
)
def test_a_port_that_is_not_wired_yet_announces_nothing_and_says_so(announcer, vlan):
    announcer.set_locations({"vhu0": replace(HOME, vlan=vlan)})
    switch = Switch(announcer)
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until_idle(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.reason) == (Outcome.ISOLATED, "it is in VLAN 4095 alone")
    assert switch.sent == []


def test_an_unanswered_trace_is_a_reason(announcer):
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    now = 0.0
    for _ in range(MAX_ATTEMPTS):
        (packet_out,) = announcer.run(now, lambda _: None)
        announcer.delivered(packet_out.token)
        announcer.run(now, lambda _: None)
        announcer.table("br0", "", now)
        (question,) = announcer.run(now, lambda _: None)
        announcer.no_trace(question.token, "unknown command", now)
        announcer.run(now, lambda _: None)
        now = announcer.get_timer() or now
    assert only_result(announcer).reason == "not in the MAC table, no trace: unknown command"


BLOCKED = " 0. in_port=2, priority 1000\n    drop\nDatapath actions: drop\n"
ENTERS = " 0. in_port=2, priority 100\n    resubmit(,8)\n 8. priority 50\n    drop\n"


def test_ovn_is_asked_whether_the_port_is_active_until_it_is(announcer):
    """By its flows alone: its bridge learns nothing, so the MAC table is not asked."""
    announcer.set_locations({"vhu0": replace(HOME, ovn=True)})
    switch = Switch(announcer)
    switch.trace = BLOCKED
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until(0.0, lambda: len(switch.flows) == 2)
    assert announcer.take_results() == []
    switch.trace = ENTERS
    switch.run_until_idle(announcer.get_timer())
    result = only_result(announcer)
    assert (result.outcome, result.confirmed_by, result.attempts) == (Outcome.ACTIVE, "flow", 3)
    assert result.summary() == f"52:54:00:12:34:56 active {1e3 * sum(PAUSES[:2]):.1f}ms send-rarp"
    assert switch.questions == 0
    assert set(switch.flows) == {"in_port=2,dl_src=52:54:00:12:34:56,dl_dst=52:54:00:12:34:56"}


def test_a_port_that_ovn_does_not_activate_is_called_blocked(announcer):
    announcer.set_locations({"vhu0": replace(HOME, ovn=True)})
    switch = Switch(announcer)
    switch.trace = BLOCKED
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    switch.run_until_idle(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.attempts) == (Outcome.BLOCKED, MAX_ATTEMPTS)
    assert result.summary().endswith(" blocked send-rarp: OVN drops what comes from the port")
    assert result.milliseconds is None


def test_an_ovn_that_does_not_answer_is_not_said_to_block(announcer):
    announcer.set_locations({"vhu0": replace(HOME, ovn=True)})
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    now = 0.0
    for _ in range(MAX_ATTEMPTS):
        (packet_out,) = announcer.run(now, lambda _: None)
        announcer.delivered(packet_out.token)
        (question,) = announcer.run(now, lambda _: None)
        announcer.no_trace(question.token, "no answer", now)
        announcer.run(now, lambda _: None)
        now = announcer.get_timer() or now
    result = only_result(announcer)
    assert (result.outcome, result.reason) == (Outcome.NOT_LEARNED, "no trace: no answer")


def test_a_guest_that_stops_takes_its_announcements_with_it(announcer):
    switch = Switch(announcer)
    switch.obstacle = "negotiating"
    for mac in (MAC, OTHER):
        announcer.request(ask("vhu0", mac, 0.0), 0.0)
    switch.turn(0.0)
    announcer.withdraw("vhu0", "the guest stopped")
    switch.obstacle = None
    switch.run_until_idle(0.1)
    assert switch.sent == []
    summaries = [result.summary() for result in announcer.take_results()]
    assert summaries[0] == "52:54:00:12:34:56 withdrawn send-rarp: the guest stopped"
    assert len(summaries) == 2


def test_a_withdrawal_answers_all_requests_and_is_none_where_nothing_was_announced(announcer):
    announcer.withdraw("vhu0", "the guest stopped")
    for number in range(3):
        announcer.request(ask("vhu0", MAC, 0.0), 0.0)
        if not number:
            announcer.run(0.0, lambda _: None)  # the others come after its frame
    announcer.withdraw("vhu0", "the guest stopped")
    assert only_result(announcer).requests == 3


def test_what_is_learned_after_a_withdrawal_is_not_told_again(announcer):
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    (packet_out,) = announcer.run(0.0, lambda _: None)
    announcer.withdraw("vhu0", "the guest stopped")
    announcer.delivered(packet_out.token)
    switch = Switch(announcer)
    switch.table["br0", MAC, 0] = HOME.ofport
    switch.turn(0.1)
    assert only_result(announcer).outcome is Outcome.WITHDRAWN
    assert announcer.get_timer() is None


def test_a_station_is_sent_whole_in_its_own_vlan_and_past_the_table_if_so_wished(announcer):
    station = Station(MAC, 10, (b"\xc0\0\2\1",), (b"\xfe\x80" + bytes(13) + b"\1",))
    policy = Policy(output=Output.NORMAL, frames=("garp", "na", "rarp"))
    announcer.request(Request("vhu0", station, "moved-in", 0.0, policy), 0.0)
    (packet_out,) = announcer.run(0.0, lambda _: None)
    kinds = [frame[16:18] for frame in packet_out.frames]
    assert kinds == [b"\x08\x06", b"\x86\xdd", b"\x80\x35"]
    assert {frame[12:16] for frame in packet_out.frames} == {b"\x81\0\0\x0a"}
    assert packet_out.output is Output.NORMAL


def test_one_mac_in_two_vlans_is_two_announcements(announcer):
    switch = Switch(announcer)
    for vlan in (0, 10):
        announcer.request(Request("vhu0", Station(MAC, vlan), "moved-in", 0.0), 0.0)
    switch.turn(0.0)
    assert [packet_out.frames[0][12:14] for _, packet_out in switch.sent] == [
        b"\x80\x35",
        b"\x81\x00",
    ]


def test_a_policy_that_asks_for_nothing_that_is_known_is_told(announcer):
    request = Request("vhu0", Station(MAC), "moved-in", 0.0, Policy(frames=("garp",)))
    announcer.request(request, 0.0)
    assert announcer.run(0.0, lambda _: None) == []
    result = only_result(announcer)
    assert (result.outcome, result.attempts) == (Outcome.REFUSED, 0)
    assert result.reason.startswith("no frame")


def test_a_users_format_that_fails_costs_only_its_own_frames():
    def broken(guest):
        raise RuntimeError(f"no idea of {guest.port} on {guest.bridge}")

    announcer = Announcer({"odd": broken})
    announcer.set_locations({"vhu0": HOME})
    policy = Policy(frames=("odd", "rarp"))
    announcer.request(Request("vhu0", Station(MAC), "manual", 0.0, policy), 0.0)
    Switch(announcer).turn(0.0)
    result = only_result(announcer)
    assert (result.outcome, result.frames) == (Outcome.LEARNED, 1)
    assert result.reason == "odd: RuntimeError: no idea of vhu0 on br0"
    announcer.request(Request("vhu0", Station(OTHER), "manual", 1.0, policy), 1.0)
    Switch(announcer).turn(1.0)
    assert announcer.counters["format-errors"] == 2


def test_without_a_table_nothing_is_claimed(announcer):
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    now = 0.0
    for _ in range(MAX_ATTEMPTS):
        (packet_out,) = announcer.run(now, lambda _: None)
        announcer.delivered(packet_out.token)
        announcer.run(now, lambda _: None)
        announcer.no_table("br0", "no answer", now)
        announcer.run(now, lambda _: None)
        now = announcer.get_timer() or now
    assert only_result(announcer).reason == "no MAC table: no answer"


def test_a_silent_switch_ends_at_the_deadline_and_its_late_answer_is_ignored(announcer):
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    (packet_out,) = announcer.run(0.0, lambda _: None)
    assert announcer.get_timer() == DEADLINE
    announcer.run(DEADLINE, lambda _: None)
    assert only_result(announcer).outcome is Outcome.NOT_LEARNED
    announcer.failed(packet_out.token, Outcome.NOT_LEARNED, "OpenFlow: closed", DEADLINE)
    announcer.run(DEADLINE + 1, lambda _: None)
    assert announcer.take_results() == []


def test_a_port_that_goes_away_is_forgotten(announcer):
    announcer.request(ask("vhu0", MAC, 0.0), 0.0)
    (packet_out,) = announcer.run(0.0, lambda _: None)
    announcer.set_locations({"vhu0": HOME, "vhu1": HOME})
    announcer.set_locations({})  # vhu1 has announced nothing
    announcer.delivered(packet_out.token)
    Switch(announcer).turn(0.1)
    assert announcer.take_results() == []
    assert announcer.get_timer() is None


@pytest.mark.parametrize(
    ("mac", "reason"),
    [(bytes(6), "mac-zero"), (b"\x01" + MAC[1:], "mac-multicast"), (MAC[:4], "mac-length")],
)
def test_a_bad_mac_is_refused_at_once(announcer, mac, reason):
    announcer.request(ask("vhu0", mac, 0.0), 0.0)
    assert announcer.run(0.0, lambda _: None) == []
    result = only_result(announcer)
    assert (result.outcome, result.reason) == (Outcome.REFUSED, reason)


@pytest.mark.parametrize("received_at", [0.0, 0.5])
def test_a_time_of_reception_may_be_long_ago(announcer, received_at):
    announcer.request(ask("vhu0", MAC, received_at), 10.0)
    Switch(announcer).turn(10.0)
    assert only_result(announcer).received_at == received_at


@pytest.mark.parametrize("received_at", [-1.0, 11.0, float("nan"), float("inf")])
def test_a_time_of_reception_that_cannot_be_is_not_believed(announcer, received_at):
    announcer.request(ask("vhu0", MAC, received_at), 10.0)
    Switch(announcer).turn(10.0)
    assert only_result(announcer).received_at == 10.0


def test_a_flood_of_bad_macs_is_counted_but_told_rarely(announcer):
    for _ in range(1000):
        announcer.request(ask("vhu0", bytes(6), 0.0), 0.0)
    assert len(announcer.take_results()) == 1
    assert announcer.counters["refused"] == announcer.counters["mac-zero"] == 1000


def test_what_is_refused_to_a_peer_is_told_once_of_each_mac_and_counted_by_its_name(announcer):
    name = "mac-not-given"
    for now in range(3):
        for mac in (MAC, OTHER):
            for vlan in (0, 7):
                request = Request("vhu0", Station(mac, vlan), "send-rarp", now)
                announcer.request(request, 10.0 * now, f"{name}: add it")
    told = [(one.mac, one.vlan, one.reason) for one in announcer.take_results()]
    assert told == [(mac, vlan, f"{name}: add it") for mac in (MAC, OTHER) for vlan in (0, 7)]
    assert announcer.counters["refused"] == announcer.counters[name] == 12
    announcer.request(ask("vhu0", MAC, 40.0), 40.0, "mac-foreign: vhu1's")
    assert [one.reason for one in announcer.take_results()] == ["mac-foreign: vhu1's"]


def test_what_is_refused_on_one_port_is_told_of_another_too(announcer):
    for port in ("vhu0", "vhu1"):
        announcer.request(ask(port, MAC, 0.0), 0.0, "mac-not-given: add it")
    assert [one.port for one in announcer.take_results()] == ["vhu0", "vhu1"]


def test_ever_new_macs_are_not_all_told(announcer):
    for n in range(10 * REMEMBERED):
        mac = b"\x52\x54\x00\x00" + n.to_bytes(2, "big")
        announcer.request(ask("vhu0", mac, 0.0), 10.0 * n, "mac-not-given: add it")
    assert len(announcer.take_results()) == REMEMBERED


def test_an_operator_is_told_of_every_refusal(announcer):
    for _ in range(100):
        announcer.request(
            Request("vhu0", Station(MAC), Trigger.MANUAL, 0.0), 0.0, "mac-foreign: vhu1's"
        )
    results = announcer.take_results()
    assert [result.summary() for result in results] == [
        "52:54:00:12:34:56 refused manual: mac-foreign: vhu1's"
    ] * 100


def test_a_flood_of_macs_keeps_the_newest_and_the_frame_rate(announcer):
    switch = Switch(announcer)
    macs = [b"\x52\x54\x00\x00" + index.to_bytes(2, "big") for index in range(1000)]
    for mac in macs:
        announcer.request(ask("vhu0", mac, 0.0), 0.0)
    switch.run_until_idle(0.0)
    results = announcer.take_results()
    learned = [one.mac for one in results if one.outcome is Outcome.LEARNED]
    assert learned == macs[-MAX_UNDER_WAY:]
    assert {one.reason for one in results if one.outcome is Outcome.REFUSED} == {"flood"}
    assert announcer.counters["refused"] == len(macs) - MAX_UNDER_WAY


def test_a_flood_of_one_mac_is_slowed_but_its_last_request_is_answered(announcer):
    switch = Switch(announcer)
    for index in range(2000):
        announcer.request(ask("vhu0", MAC, index / 1000), index / 1000)
        switch.turn(index / 1000)
    end = switch.run_until_idle(2.0)
    assert len(switch.sent) <= ATTEMPT_BURST + ATTEMPT_RATE * end + 1
    assert switch.sent[-1][0] >= 1.999
    assert sum(result.requests for result in announcer.take_results()) == 2000


def test_one_ports_flood_does_not_slow_another(announcer):
    other = Location("br0", 9, HOME.mgmt_path)
    announcer.set_locations({"vhu0": HOME, "vhu1": other})
    switch = Switch(announcer)
    for index in range(100):
        mac = b"\x52\x54\x00\x01\x00" + bytes([index])
        announcer.request(ask("vhu0", mac, 0.0), 0.0)
        switch.turn(0.0)
    announcer.request(ask("vhu1", MAC, 0.0), 0.0)
    switch.turn(0.0)
    assert switch.table["br0", MAC, 0] == 9


KINDS = ["request", "deliver", "fail", "table", "no-table", "trace", "no-trace", "move", "time"]
STEP = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 3),
)


@given(st.lists(STEP, max_size=60), st.booleans())
@settings(max_examples=200)
def test_whatever_happens_every_request_is_answered_or_its_port_is_gone(steps, learns):
    """Any order of answers: the announcer stays consistent, and ends idle."""
    announcer = Announcer()
    announcer.set_locations({"vhu0": HOME})
    macs = [b"\x52\x54\x00\x00\x00" + bytes([index]) for index in range(4)]
    sent: list[PacketOut | InjectFrames] = []
    asked: list[AskTable] = []
    traced: list[AskTrace] = []
    now, requests = 0.0, 0
    for kind, index in steps:
        if kind == "request":
            requests += 1
            announcer.request(ask("vhu0", macs[index], now), now)
        elif kind == "deliver" and sent:
            announcer.delivered(sent.pop(index % len(sent)).token)
        elif kind == "fail" and sent:
            token = sent.pop(index % len(sent)).token
            announcer.failed(token, Outcome.NOT_LEARNED, "lost", now)
        elif kind == "trace" and traced:
            announcer.trace(traced.pop().token, FLOODED, now)
        elif kind == "no-trace" and traced:
            announcer.no_trace(traced.pop().token, "lost", now)
        elif kind == "table" and asked:
            bridge = asked.pop().bridge
            announcer.table(bridge, row(2, 0, macs[index]), now)
        elif kind == "no-table" and asked:
            announcer.no_table(asked.pop().bridge, "lost", now)
        elif kind == "move":
            bridge = f"br{index}"
            announcer.set_locations({"vhu0": Location(bridge, index, f"/run/{bridge}")})
        elif kind == "time":
            now += index / 10
        for action in announcer.run(now, lambda _: None):
            if isinstance(action, PacketOut | InjectFrames):
                sent.append(action)
            elif isinstance(action, AskTrace):
                traced.append(action)
            else:
                assert action not in asked, "one question about a bridge at a time"
                asked.append(action)
    for packet_out in sent:
        announcer.delivered(packet_out.token)
    for question in traced:
        announcer.no_trace(question.token, "lost", now)
    for question in asked:
        announcer.no_table(question.bridge, "lost", now)
    Switch(announcer, learns).run_until_idle(now)
    assert sum(result.requests for result in announcer.take_results()) == requests


def test_ports_that_were_announced_once_are_not_looked_at_again(announcer, monkeypatch) -> None:
    names = [f"vhu{number}" for number in range(100)]
    announcer.set_locations(dict.fromkeys(names, HOME))
    switch = Switch(announcer)
    for name in names:
        announcer.request(ask(name, MAC, 10.0), 10.0)
    switch.run_until_idle(10.0)
    looked_at: list[object] = []
    under_way = UnderWay.__iter__

    def noted(self: UnderWay) -> Iterator[object]:
        looked_at.append(self)
        return under_way(self)

    monkeypatch.setattr(UnderWay, "__iter__", noted)
    announcer.request(ask("vhu7", MAC, 20.0), 20.0)
    switch.run_until_idle(20.0)
    assert len(set(map(id, looked_at))) == 1
