# SPDX-License-Identifier: Apache-2.0
"""A QEMU guest whose NIC is behind an Intel IOMMU (`iommu_platform=on,ats=on`).

The guest's kernel maps every buffer for as long as the NIC has it, and with `iommu.strict=1` takes
each mapping away before it goes on: a page is often translated for one frame only. Without it
QEMU 7.2 does not tell a back-end of what the guest takes away: docs/vhost-user.md.
"""

import pytest
from qemu_site import PORT, Site

from ovs_vhost_plugin.lab.host import BRIDGE
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

KIB = 1 << 10


def test_traffic_both_ways_behind_an_iommu(qemu_programs):
    with Site() as site:
        path = site.directory / "vm.sock"
        option = f"options:vhost-server-path={path}"
        site.host.switch.vsctl("add-port", BRIDGE, PORT, "--", "set", "Interface", PORT, option)
        with site.qemu(path, iommu=("iommu.strict=1",)) as guest:
            site.host.wait_status(PORT, "running")
            assert site.features() & Feature.ACCESS_PLATFORM.mask
            site.ping(56)
            site.ping(1472)
            before = site.stats()["iotlb_misses"]
            assert before > 0
            site.tcp(guest, 64 * KIB)
            stats = site.stats()
            assert stats["iotlb_misses"] > before
            assert stats["errors"] == {}
            assert not [name for name in stats["queue_pairs"][0] if name.startswith("fault")]
