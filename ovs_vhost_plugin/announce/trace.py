# SPDX-License-Identifier: Apache-2.0
"""What `ofproto/trace` says about where a frame to an address would go.

A pipeline that learns with learn() keeps nothing in the MAC table. What it has learned shows in
where it sends a frame: to one port, by its OpenFlow number, instead of flooding it.

     2. priority 0
        output:NXM_NX_REG0[]
         -> output port is 1
    ...
    Datapath actions: push_vlan(vid=10,pcp=0),2
"""

from __future__ import annotations

import re

_OUTPUT = re.compile(r"(?:\boutput:|-> output port is )([0-9]{1,10})\b")
_ACTIONS = re.compile(r"^Datapath actions: (.*)$", re.MULTILINE)


def flow_to(mac: bytes, vlan: int) -> str:
    """The frame to ask about: one to `mac` that comes from the host itself."""
    tag = f",dl_vlan={vlan}" if vlan else ""
    return f"in_port=LOCAL,dl_dst={mac.hex(':')}{tag}"


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
