# SPDX-License-Identifier: Apache-2.0
"""What `ofproto/trace` says about where a frame would go.

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
"""

from __future__ import annotations

import re

_OUTPUT = re.compile(r"(?:\boutput:|-> output port is )([0-9]{1,10})\b")
_ACTIONS = re.compile(r"^Datapath actions: (.*)$", re.MULTILINE)
_FLOW = re.compile(r"^ *[0-9]+\. ", re.MULTILINE)


def flow_to(mac: bytes, vlan: int) -> str:
    """The frame to ask about: one to `mac` that comes from the host itself."""
    tag = f",dl_vlan={vlan}" if vlan else ""
    return f"in_port=LOCAL,dl_dst={mac.hex(':')}{tag}"


def flow_from(ofport: int, mac: bytes, vlan: int) -> str:
    """The frame to ask OVN about: one from the port to the guest itself, which is not flooded."""
    tag = f",dl_vlan={vlan}" if vlan else ""
    return f"in_port={ofport},dl_src={mac.hex(':')},dl_dst={mac.hex(':')}{tag}"


def blocked(text: str) -> str | None:
    """Return None if what comes from the port gets past the first flow, else what is wrong.

    What becomes of it after that is for the logical pipeline to say, and no matter of activation.
    """
    flows = len(_FLOW.findall(text))
    if flows > 1:
        return None
    return "OVN drops what comes from the port" if flows else "the trace shows no flow"


def missing(text: str, ofport: int) -> str | None:
    """Return None if the frame goes to `ofport` and nowhere else, else what happens to it.

    "" where the trace says nothing of it in particular: the frame is flooded.
    """
    found = _ACTIONS.search(text)
    if found is None:
        return ""
    actions = found[1]
    if actions == "drop":
        if "No match." in text:
            return "no flow of the bridge matches (fail_mode=secure?)"
        return "the bridge's flows drop it"
    outputs = [one for one in re.sub(r"\([^()]*\)", "", actions).split(",") if one.isdigit()]
    named = {int(number) for number in _OUTPUT.findall(text)}
    if len(outputs) == 1 and named == {ofport}:
        return None
    if len(outputs) == 1 and named:
        return "a flow sends to port " + ", ".join(map(str, sorted(named)))
    return ""
