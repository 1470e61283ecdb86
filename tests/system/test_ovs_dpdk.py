# SPDX-License-Identifier: Apache-2.0
"""The same live migration, of the same guest, on our back-end and on OVS-DPDK.

What each does to the flow is printed side by side. Only what must hold on any machine is asserted:
OVS-DPDK drops what comes for a guest that is away, or slower than its ring.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ovs_vhost_plugin.lab.hosts.dpdk import DpdkHost
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import PATIENCE
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


def test_a_switch_with_dpdk_keeps_its_ports_and_its_types():
    """`--adopt-dpdk-types` is for switches without: ours can stand beside its own."""
    with (
        TemporaryDirectory(prefix="ovs-vhost-") as top,
        DpdkHost("dpdk", Path(top, "h"), daemon_options=["--adopt-dpdk-types"]) as host,
    ):
        host.switch.add_port(BRIDGE, "vhu0", "type=dpdkvhostuser")
        host.add_client_port("vhu1")
        host.wait_ready("vhu1")
        assert host.switch.interface("vhu0", "type") == "dpdkvhostuser"
        assert host.wait_ofport("vhu0") > 0 and not host.status("vhu0")

        host.appctl("exit", "--cleanup")
        assert host.daemon.wait(PATIENCE) == 0
        types = host.switch.vsctl("get", "Open_vSwitch", ".", "iface_types")
        assert {"dpdk", "dpdkvhostuser", "dpdkvhostuserclient"} <= set(
            types.strip("[]").split(", ")
        )
