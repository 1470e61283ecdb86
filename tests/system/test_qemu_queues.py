# SPDX-License-Identifier: Apache-2.0
"""A VM starts however many queues it has; where a row limits them, that is told."""

import pytest
from support.system.qemu_site import PORT, Site

from ovs_vhost_plugin.lab.process import wait_until

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

PAIRS = 20
"""More than this machine has processors, as on a host to which a VM moves."""


@pytest.fixture(scope="module")
def site(qemu_programs):
    with Site() as made:
        yield made


def test_a_vm_with_more_queues_than_the_host_has_processors_runs(site):
    path = site.host.add_client_port(PORT)
    with site.qemu(path, queues=PAIRS) as guest:
        site.host.wait_running(PORT)
        site.ping(1000)
        assert f"Combined:\t{PAIRS}" in guest.run("ethtool -l eth0").replace(" ", "")
    site.host.delete_port(PORT)


def test_a_vm_with_more_queues_than_the_row_lets_is_told_and_runs_when_it_may(site):
    limit = "external_ids:vhost-user-queues"
    path = site.host.add_server_port(PORT, f"{limit}=1")
    site.host.wait_status(PORT, "listening")
    guest = site.qemu(path, listen=False, queues=2)
    try:
        guest.launch()
        error = wait_until(lambda: site.host.status(PORT).get("error"), "an error")
        assert error.startswith("front-end-gives-up: ")
        site.host.switch.vsctl("set", "Interface", PORT, f"{limit}=2")
        guest.attend()
        site.host.wait_running(PORT)
        site.ping(1000)
        wait_until(lambda: "error" not in site.host.status(PORT), "the error's end")
    finally:
        guest.stop()
    site.host.delete_port(PORT)
