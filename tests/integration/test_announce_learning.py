# SPDX-License-Identifier: Apache-2.0
"""What a real bridge makes of our announcements, and whether we tell the truth about it."""

import time

import pytest
from support.control.announce_bridge import (
    SwitchService,
    ask,
    await_results,
    bridge,
    private_switch,
)

from ovs_vhost_plugin.announce.announcement import MAX_ATTEMPTS
from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.announce.policy import DEFAULT, Policy
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.net.location import Location
from ovs_vhost_plugin.net.station import Station
from ovs_vhost_plugin.openflow.wire import Output

pytestmark = pytest.mark.integration

MAC = bytes.fromhex("525400123456")


@pytest.fixture(scope="module")
def switch(tmp_path_factory, require):
    with private_switch(tmp_path_factory.mktemp("ovs"), require) as switch:
        yield switch


@pytest.fixture
def service(switch):
    service = SwitchService(switch)
    yield service
    service.close()


def announce(service, location, station=MAC, policy=DEFAULT):
    """Announce and return the result."""
    service.set_locations({"vhu0": location})
    ask(service, station, policy=policy)
    (result,) = await_results(service)
    return result


@pytest.mark.parametrize("minor", range(6))
def test_learned_whichever_openflow_version_the_bridge_allows(switch, service, minor):
    with bridge(switch, protocols=f"OpenFlow1{minor}") as br:
        result = announce(service, br.location())
        assert result.outcome is Outcome.LEARNED, result
        assert br.place_of(MAC) == (str(br.ofport("guest")), 0)


def test_the_time_line_is_in_order_and_fit_for_the_row(switch, service):
    with bridge(switch) as br:
        before = time.monotonic()
        result = announce(service, br.location())
        assert before <= result.received_at <= result.sent_at < result.learned_at
        assert result.learned_at <= time.monotonic()
        assert result.summary().startswith("52:54:00:12:34:56 learned ")
        assert service.history() == [result.as_dict()]


def test_the_rarp_reaches_the_other_ports_byte_for_byte_and_not_the_guest(switch, service):
    with bridge(switch) as br:
        announce(service, br.location())
        assert [frame for frame in br.taps["peer"].frames() if frame[6:12] == MAC] == [rarp(MAC)]
        assert br.taps["guest"].frames() == []


def test_a_mac_that_was_elsewhere_moves_to_the_guests_port(switch, service):
    with bridge(switch) as br:
        br.taps["peer"].send(rarp(MAC))
        elsewhere = (str(br.ofport("peer")), 0)
        wait_until(lambda: br.place_of(MAC) == elsewhere, "the bridge learns the old place")
        assert announce(service, br.location()).outcome is Outcome.LEARNED
        assert br.place_of(MAC) == (str(br.ofport("guest")), 0)


def test_an_access_ports_mac_is_learned_in_its_vlan_and_tagged_on_trunks(switch, service):
    with bridge(switch, guest_tag=10) as br:
        result = announce(service, br.location())
        assert result.outcome is Outcome.LEARNED, result
        assert br.place_of(MAC) == (str(br.ofport("guest")), 10)
        plain = rarp(MAC)
        assert br.taps["peer"].frames() == [plain[:12] + b"\x81\x00\x00\x0a" + plain[12:]]


def test_a_wrong_vlan_is_not_called_learned(switch, service):
    with bridge(switch, guest_tag=10) as br:
        place = br.location()
        wrong = Location(place.bridge, place.ofport, place.mgmt_path)
        result = announce(service, wrong)
        assert (result.outcome, result.reason) == (Outcome.NOT_LEARNED, "not in VLAN 0")


LEARN = (
    "table=0,actions=learn(table=1,hard_timeout=60,NXM_OF_VLAN_TCI[0..11],"
    "NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15]),"
    "resubmit(,1),resubmit(,2)"
)


def add_learn_pipeline(switch, br):
    """Set a pipeline that floods what it has not learned, and never uses NORMAL."""
    management = f"unix:{br.location().mgmt_path}"
    switch.ofctl("del-flows", management)
    switch.ofctl("add-flow", management, "table=2,priority=2,reg0=0,actions=FLOOD")
    switch.ofctl("add-flow", management, "table=2,priority=1,actions=output:NXM_NX_REG0[]")
    switch.ofctl("add-flow", management, LEARN)
    return management


@pytest.mark.parametrize("vlan", [0, 10])
def test_a_learn_pipeline_confirms_by_its_learned_flow(switch, service, vlan):
    with bridge(switch) as br:
        management = add_learn_pipeline(switch, br)
        result = announce(service, br.location(), Station(MAC, vlan))
        assert (result.outcome, result.confirmed_by) == (Outcome.LEARNED, "flow"), result
        assert result.attempts == 1
        flows = switch.ofctl("dump-flows", management, "table=1")
        assert f"dl_dst={MAC.hex(':')} actions=load:" in flows
        assert br.place_of(MAC) is None


def test_a_learned_flow_of_another_port_is_not_taken_for_this_ones(switch, service):
    with bridge(switch) as br:
        management = add_learn_pipeline(switch, br)
        learned = f"table=1,priority=65535,dl_dst={MAC.hex(':')},actions=load:{br.ofport('peer')}"
        switch.ofctl("add-flow", management, learned + "->NXM_NX_REG0[0..15]")
        result = announce(service, br.location())
        assert result.outcome is Outcome.NOT_LEARNED
        assert result.reason == f"a flow sends to port {br.ofport('peer')}"


def test_a_learned_flow_that_nothing_uses_is_not_called_learned(switch, service):
    with bridge(switch) as br:
        management = f"unix:{br.location().mgmt_path}"
        switch.ofctl("del-flows", management)
        switch.ofctl("add-flow", management, LEARN.partition("resubmit")[0] + "FLOOD")
        result = announce(service, br.location())
        assert (result.outcome, result.reason) == (Outcome.NOT_LEARNED, "not in the MAC table")


def test_a_pipeline_that_drops_is_respected_and_reported_without_a_storm(switch, service):
    with bridge(switch, fail_mode="secure") as br:
        result = announce(service, br.location())
        assert (result.outcome, result.attempts) == (Outcome.NOT_LEARNED, MAX_ATTEMPTS)
        assert result.reason == "no flow of the bridge matches (fail_mode=secure?)"
        assert service.counters()["packet-outs"] == MAX_ATTEMPTS
        assert br.taps["peer"].frames() == []


def test_output_normal_goes_past_the_pipeline_on_request(switch, service):
    with bridge(switch, fail_mode="secure") as br:
        policy = Policy(output=Output.NORMAL)
        result = announce(service, br.location(), policy=policy)
        assert (result.outcome, result.confirmed_by) == (Outcome.LEARNED, "fdb"), result
        assert br.taps["peer"].frames() == [rarp(MAC)]


def learned_before(switch, br):
    """Have the bridge know the MAC on the guest's port, from the guest's own frame."""
    br.taps["guest"].send(rarp(MAC))
    here = (str(br.ofport("guest")), 0)
    wait_until(lambda: br.place_of(MAC) == here, "the bridge knows the MAC")
    wait_until(br.taps["peer"].frames, "the frame itself")


@pytest.mark.parametrize(
    ("flow", "reason"),
    [
        ("priority=10,dl_type=0x8035,actions=drop", "the bridge's flows drop it"),
        ("", "no flow of the bridge matches (fail_mode=secure?)"),
    ],
)
def test_an_entry_from_before_does_not_make_a_dropped_announcement_learned(
    switch, service, flow, reason
):
    with bridge(switch) as br:
        learned_before(switch, br)
        management = f"unix:{br.location().mgmt_path}"
        if flow:
            switch.ofctl("add-flow", management, flow)
        else:
            switch.ofctl("del-flows", management)
        result = announce(service, br.location())
        assert (result.outcome, result.reason) == (Outcome.NOT_LEARNED, reason)
        assert br.place_of(MAC) == (str(br.ofport("guest")), 0)
        assert br.taps["peer"].frames() == []


def test_a_flow_against_rarp_lets_the_garp_teach(switch, service):
    with bridge(switch) as br:
        management = f"unix:{br.location().mgmt_path}"
        switch.ofctl("add-flow", management, "priority=10,dl_type=0x8035,actions=drop")
        result = announce(service, br.location(), Station(MAC, ipv4=(bytes([192, 0, 2, 1]),)))
        assert result.outcome is Outcome.LEARNED, result


def test_a_port_that_no_other_hears_is_isolated(switch, service):
    """Protected ports, and the bridge's own in another VLAN."""
    with bridge(switch, guest_tag=10) as br:
        ports = [["--", "set", "Port", name, "protected=true"] for name in br.ports.values()]
        switch.vsctl("set", "Port", br.name, "tag=7", *[word for port in ports for word in port])
        result = announce(service, br.location())
        assert result.outcome is Outcome.ISOLATED, result
        assert br.place_of(MAC) == (str(br.ofport("guest")), 10), "the bridge has learned it"
        assert br.taps["peer"].frames() == []


def test_a_drop_that_ends_in_time_costs_only_a_retry(switch, service):
    with bridge(switch, fail_mode="secure") as br:
        service.set_locations({"vhu0": br.location()})
        ask(service, MAC)
        # The second: so the first was answered before the flow comes, by another connection.
        wait_until(
            lambda: service.run() or service.counters().get("packet-outs", 0) > 1,
            "an attempt in vain",
        )
        switch.ofctl("add-flow", f"unix:{br.location().mgmt_path}", "actions=NORMAL")
        (result,) = await_results(service)
        assert result.outcome is Outcome.LEARNED, result
        assert result.attempts > 1


def test_several_macs_and_ports_share_a_bridge(switch, service):
    with bridge(switch) as br:
        place = br.location()
        peer = Location(br.name, br.ofport("peer"), place.mgmt_path)
        service.set_locations({"vhu0": place, "vhu1": peer})
        macs = [MAC[:5] + bytes([index]) for index in range(8)]
        for index, mac in enumerate(macs):
            ask(service, mac, f"vhu{index % 2}")
        results = await_results(service, len(macs))
        assert {result.outcome for result in results} == {Outcome.LEARNED}
        ports = [str(place.ofport), str(peer.ofport)]
        assert [br.place_of(mac) for mac in macs] == [(ports[i % 2], 0) for i in range(8)]


def test_a_mac_that_is_no_guests_never_reaches_the_bridge(switch, service):
    with bridge(switch) as br:
        result = announce(service, br.location(), b"\xff" * 6)
        assert (result.outcome, result.reason) == (Outcome.REFUSED, "mac-multicast")
        assert br.taps["peer"].frames() == []


def test_an_ofport_that_no_port_has_is_not_called_learned(switch, service):
    with bridge(switch) as br:
        place = br.location()
        result = announce(service, Location(place.bridge, 999, place.mgmt_path))
        assert result.outcome is not Outcome.LEARNED


def test_a_restarted_vswitchd_is_found_again(switch, service):
    with bridge(switch) as br:
        assert announce(service, br.location()).outcome is Outcome.LEARNED
        switch.restart_vswitchd()
        result = announce(service, br.location())
        assert result.outcome is Outcome.LEARNED, result
        assert br.place_of(MAC) == (str(br.ofport("guest")), 0)


def test_an_announcement_waits_for_a_vswitchd_that_is_down(switch, service):
    with bridge(switch) as br:
        service.set_locations({"vhu0": br.location()})
        switch.stop_vswitchd()
        try:
            ask(service, MAC)
            service.run()
            assert service.take_results() == []
        finally:
            switch.start_vswitchd()
        (result,) = await_results(service)
        assert result.outcome is Outcome.LEARNED, result
