# SPDX-License-Identifier: Apache-2.0
"""Reads the answers of `ofproto/trace`: where a frame would go. Pure.

A pipeline that learns with learn() keeps nothing in the MAC table. What it has learned shows in
where it sends a frame to an address: to one port, by its OpenFlow number, instead of flooding it.

     2. priority 0
        output:NXM_NX_REG0[]
         -> output port is 1
    ...
    Datapath actions: push_vlan(vid=10,pcp=0),2

OVN learns nothing; it waits (activation-strategy=rarp) for a RARP from the port, and until then its
very first flow for the port drops everything else that comes from it:

     0. in_port=2, priority 1000, cookie 0xe3874e67
        drop

That an address is known does not say that an announcement of it got through: what is known may be
older. So the announcement itself is traced too. Where it comes to NORMAL and yet goes out nowhere,
the port is isolated, by protected ports or VLANs:

     0. priority 0
        NORMAL
         -> no learned MAC for destination, flooding
         >> Flow is between protected ports, skipping output.
    ...
    Datapath actions: drop
"""

from __future__ import annotations

import re
from collections.abc import Collection

NO_FLOW = "no flow of the bridge matches (fail_mode=secure?)"
DROPPED = "the bridge's flows drop it"
ISOLATED = "no other port of the bridge gets what this one sends"

_OUTPUT = re.compile(r"(?:\boutput:|-> output port is )([0-9]{1,10})\b")
_ACTIONS = re.compile(r"^Datapath actions: (.*)$", re.MULTILINE)
_FLOODED = re.compile(r"^ *NORMAL\n *-> .*flooding$", re.MULTILINE)
_NESTED = re.compile(r"\([^()]*\)")
_OUT = re.compile(r"(?:^|,)(?:[0-9]+|hash|clone|tnl_push|lb_output)(?:,|$)")
"""Of a list of actions without what is in parentheses: one by which a frame leaves."""
_FLOW = re.compile(r"^ *[0-9]+\. ", re.MULTILINE)


def learned(text: str, mac: bytes) -> bool:
    """Whether the bridge has learned from the traced frame that `mac` is elsewhere than before."""
    return f"learned that {mac.hex(':')} is on port " in text


def flow_to(mac: bytes, vlan: int) -> str:
    """The flow of a frame to `mac` that comes from the host itself."""
    tag = f",dl_vlan={vlan}" if vlan else ""
    return f"in_port=LOCAL,dl_dst={mac.hex(':')}{tag}"


def flow_from(ofport: int, mac: bytes, vlan: int) -> str:
    """The flow of a frame from the port to the guest itself, which OVN does not flood."""
    tag = f",dl_vlan={vlan}" if vlan else ""
    return f"in_port={ofport},dl_src={mac.hex(':')},dl_dst={mac.hex(':')}{tag}"


def blocked(text: str) -> str | None:
    """Return None if a frame from the port gets past the first flow, else what is wrong.

    The logical pipeline decides what happens after that; it is no matter of activation.
    """
    flows = len(_FLOW.findall(text))
    if flows > 1:
        return None
    return "OVN drops what comes from the port" if flows else "the trace shows no flow"


def _outside(actions: str) -> str:
    """The part of `actions` that is not in parentheses."""
    count = 1
    while count:
        actions, count = _NESTED.subn("", actions)
    return actions


def flow_in(ofport: int) -> str:
    """The flow of a frame that is given as a whole: it comes from the port."""
    return f"in_port={ofport}"


def stopped(text: str) -> str | None:
    """Return None if the frame goes out somewhere, else why it does not: `ISOLATED`, or other."""
    found = _ACTIONS.findall(text)
    if not found:
        return "the trace shows no actions"
    if any(_OUT.search(_outside(actions)) for actions in found):
        return None
    if "No match." in text:
        return NO_FLOW
    return ISOLATED if _FLOODED.search(text) else DROPPED


def missing(text: str, ofports: Collection[int]) -> str | None:
    """Return None if the frame goes to one of `ofports` and nowhere else, else what becomes of it.

    "" where the trace says nothing of it in particular: the frame is flooded.
    """
    found = _ACTIONS.search(text)
    if found is None:
        return ""
    actions = found[1]
    if actions == "drop":
        if "No match." in text:
            return NO_FLOW
        return DROPPED
    outputs = [one for one in _outside(actions).split(",") if one.isdigit()]
    named = {int(number) for number in _OUTPUT.findall(text)}
    if len(outputs) == 1 and len(named) == 1 and named.issubset(ofports):
        return None
    if len(outputs) == 1 and named:
        return "a flow sends to port " + ", ".join(map(str, sorted(named)))
    return ""
