# SPDX-License-Identifier: Apache-2.0
"""A live migration under 1,000 packets a second: what came to the guest's ports came to the guest.

Both guests, both ways to announce. What the test network itself loses is told apart: its middle
switch keeps a flow to the old place until its revalidator comes by, and the source's bridge, which
has learned the new place, does not send a frame back to where it came from.
"""

import json

import pytest

from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.stage import PORT, Stage

pytestmark = pytest.mark.system

WORST_UNSEEN = 20  # packets: 20 ms


@pytest.mark.parametrize("kind", ["qemu", "soft"])
@pytest.mark.parametrize("announces", [False, True], ids=["send-rarp", "guest-announce"])
def test_nothing_is_lost_that_reached_a_host(require, capsys, kind, announces):
    programs = (*packages.SWITCH, *(packages.GUEST if kind == "qemu" else ()))
    words = packages.missing(programs)
    require(words is None, words)
    with Stage(kind, announces=announces) as stage:
        if kind == "soft":
            # It is gone within milliseconds, before the bridge can be asked whose address it is.
            mac = f'external_ids:attached-mac="{stage.guest.mac}"'
            stage.fabric.a.switch.vsctl("set", "Interface", PORT, mac)
        report = stage.migrate()
        source = stage.fabric.a
        stats = json.loads(source.appctl("vhost/stats", PORT, "--format", "json"))
        shown = json.loads(source.appctl("vhost/show", "--format", "json"))
    hold = stats["ports"][PORT]["hold"]
    with capsys.disabled():
        print(
            f"\n{kind}, {'GUEST_ANNOUNCE' if announces else 'SEND_RARP'}: "
            f"{report.sent} sent, {report.lost} lost ({report.unseen} by the test network, "
            f"{report.congested} of its frames by a switch that was held up), "
            f"{report.reordered} overtaken, {hold['forwarded']} of {hold['held']} held forwarded, "
            f"outage {report.outage_ms:.1f} ms, {report.outage_ms - report.downtime_ms:.1f} ms "
            f"beyond the downtime, longest delay {report.delay_ms:.1f} ms"
        )
    assert report.lost == report.unseen <= WORST_UNSEEN + report.congested
    assert report.damaged == report.duplicated == 0
    # Those that were held come in order, after the first that found the new place.
    assert 0 < hold["forwarded"] == shown["forward"]["frames-forwarded"]
    assert report.reordered <= hold["forwarded"]
    assert shown["forward"].get("frames-unfit", 0) == shown["forward"].get("frames-lost", 0) == 0
