# SPDX-License-Identifier: Apache-2.0
"""A QEMU guest whose NIC is behind an Intel IOMMU (`iommu_platform=on,ats=on`).

The guest's kernel maps every buffer for as long as the NIC has it. Lazy, it takes mappings back
together, and all translations with them; strict, each before it goes on, so that a page is often
translated for one frame only.
"""

import pytest
from support.system.qemu_site import PORT, Site

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

KIB = 1 << 10


@pytest.mark.parametrize("setting", ["iommu.strict=0", "iommu.strict=1"])
def test_traffic_both_ways_behind_an_iommu(setting):
    with Site() as site:
        path = site.directory / "vm.sock"
        option = f"options:vhost-server-path={path}"
        site.host.switch.vsctl("add-port", BRIDGE, PORT, "--", "set", "Interface", PORT, option)
        with site.qemu(path, iommu=(setting,)) as guest:
            site.host.wait_status(PORT, "running")
            assert site.features() & Feature.ACCESS_PLATFORM.mask
            site.ping(56)
            site.tcp(guest, 32 * KIB)
            stats = site.stats()
            assert stats["iotlb_misses"] > 0
            assert stats["errors"] == {}
            assert stats["faults"] == {}
