# SPDX-License-Identifier: Apache-2.0
"""The same live migration, of the same guest, on our back-end and on OVS-DPDK.

What each does to the flow is printed side by side. Only what must hold on any machine is asserted:
OVS-DPDK drops what comes for a guest that is away, or slower than its ring.
"""

import pytest

from ovs_vhost_plugin.lab.stage import Stage

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

ANNOUNCED = ["SEND_RARP received", "RARP leaves the host", "guest's MAC learned"]


@pytest.mark.parametrize("backend", ["ovs-vhost", "ovs-dpdk"])
def test_a_migration_announced_by_send_rarp(capsys, backend):
    with Stage("qemu", announces=False, backend=backend) as stage:
        report = stage.migrate()
    at = {row.what: row.milliseconds for row in reversed(report.rows())}
    asked, left, learned = (at[step] for step in ANNOUNCED)
    with capsys.disabled():
        print(
            f"\n{backend}: {report.lost} of {report.sent} lost, outage {report.outage_ms:.1f} ms, "
            f"downtime {report.downtime_ms:.1f} ms; MAC learned {learned - asked:.1f} ms after "
            f"SEND_RARP, {learned - at['guest runs']:.1f} ms after the guest runs"
        )
    assert report.found
    assert report.damaged == report.duplicated == 0
    assert asked <= left <= learned
    learned_by = {row.where for row in report.rows() if row.what == ANNOUNCED[-1]}
    assert learned_by == {"br0 of host b", "physical switch"}
    assert at["guest stopped"] < at["guest runs"] <= at["first packet through"]
    if backend == "ovs-vhost":
        # What the physical switch still sends to the old place comes to nobody.
        assert report.lost == report.unseen
