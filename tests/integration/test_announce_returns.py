# SPDX-License-Identifier: Apache-2.0
"""A guest that comes back to a real bridge: as the network hears of it, the bridge sends to it."""

import time

import pytest
from support.control.announce_bridge import (
    SwitchService,
    ask,
    await_results,
    bridge,
    private_switch,
)

from ovs_vhost_plugin.announce import announcement
from ovs_vhost_plugin.announce.frames.announcements import rarp
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.integration

MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("525400654321")
TO_GUEST = MAC + PEER + bytes.fromhex("88b5") + bytes(46)
LAST = TO_GUEST[:-1] + b"\1"
DROPS = f"dst={MAC.hex(':')}"
TIMES, FEW = 10, 2
"""A turn of the revalidator that has begun as the bridge learns may have passed the flow by."""


@pytest.fixture(scope="module")
def switch(tmp_path_factory, require):
    with private_switch(tmp_path_factory.mktemp("ovs"), require) as switch:
        yield switch


@pytest.fixture
def service(switch, monkeypatch):
    monkeypatch.setattr(announcement, "SETTLES_WITHIN", 9.0)  # a switch that is held up has time
    service = SwitchService(switch)
    yield service
    service.close()


def leave(made):
    """The guest goes to where the peer is, and the bridge caches a flow that drops what comes."""
    there = str(made.ofport("peer")), made.guest_tag or 0
    made.taps["peer"].send(rarp(MAC))
    wait_until(lambda: made.place_of(MAC) == there, "the guest elsewhere")

    def drops():
        made.taps["peer"].send(TO_GUEST)
        flows = made.switch.appctl("ovs-vswitchd", "dpctl/dump-flows").splitlines()
        return [flow for flow in flows if DROPS in flow and flow.endswith("actions:drop")]

    wait_until(drops, "a cached flow that drops")


@pytest.mark.parametrize("tag", [None, 10])
def test_what_the_network_sends_as_it_hears_of_a_guest_that_is_back_reaches_it(
    switch, service, tag
):
    with bridge(switch, tag) as made:
        if tag is not None:
            switch.vsctl("set", "Port", made.ports["peer"], f"tag={tag}")
        service.set_locations({"vhu0": made.location()})
        missed = 0
        for _ in range(TIMES):
            leave(made)
            made.taps["guest"].frames()
            service.withdraw("vhu0", "it has stopped", [MAC])
            ask(service, MAC)
            answered = []

            def heard(answered=answered):
                service.run()
                answered += service.take_results()
                return [one for one in made.taps["peer"].frames() if one[6:12] == MAC]

            wait_until(heard, "the announcement", poll=0.0002)
            made.taps["peer"].send(TO_GUEST)
            made.taps["peer"].send(LAST)
            came = []

            def last(came=came):
                came += made.taps["guest"].frames()
                made.taps["peer"].send(LAST)  # it may be dropped as well
                return LAST in came

            wait_until(last, "frames")
            missed += TO_GUEST not in came
            (result,) = answered or await_results(service)
            assert result.outcome is Outcome.LEARNED
        assert missed <= FEW


def test_a_bridge_that_learns_nothing_does_not_delay_the_announcement(switch, service):
    """An empty pipeline: the question is answered, and nothing changes that could be awaited."""
    with bridge(switch, fail_mode="secure") as made:
        service.set_locations({"vhu0": made.location()})
        service.withdraw("vhu0", "it has stopped", [MAC])
        began = time.monotonic()
        ask(service, MAC)
        (result,) = await_results(service)
        assert result.outcome is Outcome.NOT_LEARNED
        assert result.sent_at < began + announcement.SETTLES_WITHIN
