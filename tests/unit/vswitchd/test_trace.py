# SPDX-License-Identifier: Apache-2.0
"""Texts as ovs-vswitchd 3.1 prints them."""

import pytest

from ovs_vhost_plugin.vswitchd.trace import (
    DROPPED,
    ISOLATED,
    NO_FLOW,
    blocked,
    flow_from,
    flow_to,
    learned,
    missing,
    stopped,
)

HEAD = """Flow: in_port=LOCAL,vlan_tci=0x0000,dl_dst=52:54:00:12:34:56,dl_type=0x0000

bridge("br0")
-------------
"""
REGISTER = (
    HEAD
    + """ 2. priority 1
    output:NXM_NX_REG0[]
     -> output port is 12

Final flow: unchanged
Datapath actions: """
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (REGISTER + "2\n", None),
        (REGISTER + "push_vlan(vid=10,pcp=0),2\n", None),
        (HEAD + " 1. dl_dst=x\n    output:12\nDatapath actions: 2\nThis flow is slow\n", None),
        (HEAD + " 1. dl_dst=x\n    output:1\nDatapath actions: 2\n", "a flow sends to port 1"),
        (HEAD + "    NORMAL\n     -> no learned MAC\nDatapath actions: 2,3\n", ""),
        (HEAD + "    output:12\n    output:13\nDatapath actions: 2,3\n", ""),
        (
            HEAD + "    output:12\n    output:13\nDatapath actions: 2\n",
            "a flow sends to port 12, 13",
        ),
        (
            HEAD + " 0. No match.\n    drop\nDatapath actions: drop\n",
            "no flow of the bridge matches (fail_mode=secure?)",
        ),
        (HEAD + " 0. priority 0\n    drop\nDatapath actions: drop\n", "the bridge's flows drop it"),
        ("", ""),
        ("Bad openflow flow syntax", ""),
    ],
)
def test_only_a_frame_that_goes_to_the_port_alone_is_taken_for_learned(text, reason):
    assert missing(text, {12}) == reason


def test_what_a_traced_frame_has_taught_is_told_of_its_mac_alone():
    text = HEAD + " -> learned that 52:54:00:12:34:56 is on port vhu0 in VLAN 0\n"
    assert learned(text, bytes.fromhex("525400123456"))
    assert not learned(text, bytes.fromhex("525400123457"))
    assert not learned(HEAD, bytes.fromhex("525400123456"))


def test_the_question_is_about_the_guests_own_tag():
    mac = bytes.fromhex("525400123456")
    assert flow_to(mac, 0) == "in_port=LOCAL,dl_dst=52:54:00:12:34:56"
    assert flow_to(mac, 10) == "in_port=LOCAL,dl_dst=52:54:00:12:34:56,dl_vlan=10"
    assert flow_from(2, mac, 0) == "in_port=2,dl_src=52:54:00:12:34:56,dl_dst=52:54:00:12:34:56"
    assert flow_from(2, mac, 10).endswith(",dl_vlan=10")


WAITING = (
    HEAD
    + """ 0. in_port=2, priority 1000, cookie 0xe3874e67
    drop

Final flow: unchanged
Megaflow: recirc_id=0,eth,in_port=2,dl_type=0x0000
Datapath actions: drop
"""
)
ACTIVATED = (
    HEAD
    + """ 0. in_port=2, priority 100, cookie 0xe3874e67
    set_field:0x1->metadata
    resubmit(,8)
 8. metadata=0x1, priority 50, cookie 0x5db2a09b
    resubmit(,73)
    73. reg14=0x2,metadata=0x1, priority 80, cookie 0xe3874e67
            set_field:0x1000/0x1000->reg10
    drop

Datapath actions: drop
"""
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (WAITING, "OVN drops what comes from the port"),
        (ACTIVATED, None),
        (
            HEAD + " 0. No match.\n    drop\nDatapath actions: drop\n",
            "OVN drops what comes from the port",
        ),
        ("Bad openflow flow syntax", "the trace shows no flow"),
    ],
)
def test_only_a_frame_that_enters_ovns_pipeline_shows_that_the_port_is_active(text, reason):
    assert blocked(text) == reason


def test_a_port_number_that_is_none_is_no_reason_to_fail():
    text = f" -> output port is {'9' * 5000}\nDatapath actions: 2"
    assert missing(text, {2}) == ""


PROTECTED = """ 0. priority 0
    NORMAL
     -> no learned MAC for destination, flooding
     >> Flow is between protected ports, skipping output.

Datapath actions: drop
"""


@pytest.mark.parametrize(
    "actions",
    [
        "1,3\n",
        "push_vlan(vid=10,pcp=0),2\n",
        "tnl_push(tnl_port(3),header(size=50,eth(dst=x)),out_port(1))\n",
        "hash(l4(0)),recirc(0x1)\n",
        "ct,recirc(0x1)\n\nrecirc(0x1)\nDatapath actions: 3\n",
    ],
)
def test_an_announcement_gets_through_if_it_goes_out_somewhere(actions):
    assert stopped(HEAD + " 0. priority 0\n    NORMAL\nDatapath actions: " + actions) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" 0. No match.\n    drop\nDatapath actions: drop\n", NO_FLOW),
        (" 0. rarp, priority 10\n    drop\nDatapath actions: drop\n", DROPPED),
        (" 0. priority 0\n\nDatapath actions: drop\n", DROPPED),  # by STP
        ("Datapath actions: userspace(pid=0,controller(reason=1))\n", DROPPED),
        ("    NORMAL\n     >> disallowed VLAN\nDatapath actions: drop\n", DROPPED),
        (PROTECTED, ISOLATED),
        ("", "the trace shows no actions"),
    ],
)
def test_why_an_announcement_does_not_get_through(text, why):
    assert stopped(HEAD + text) == why
