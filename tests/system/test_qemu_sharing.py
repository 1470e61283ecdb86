# SPDX-License-Identifier: Apache-2.0
"""QEMU that does not share its guest's memory starts all the same, and nothing passes."""

import pytest
from support.system.qemu_site import PEER, PORT, Site

from ovs_vhost_plugin.lab.process import wait_until

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

ERROR = "memory-not-shared"


@pytest.fixture(scope="module")
def site(qemu_programs):
    with Site() as made:
        yield made


@pytest.fixture
def path(site):
    yield site.host.add_client_port(PORT)
    site.host.delete_port(PORT)


def error(site):
    return site.host.status(PORT).get("error", "")


@pytest.mark.parametrize(
    ("memory", "status"),
    [("memory-backend-memfd,share=off", "running"), ("memory-backend-ram", "connected")],
    ids=["a-private-copy", "no-file"],
)
def test_it_is_named_until_it_is_right(site, path, memory, status):
    site.host.wait_ready(PORT)
    with site.qemu(path, memory=memory) as guest:
        # What it sends it kicks for; a guest that is silent has no complaint.
        guest.run(f"arping -q -c 1 -w 1 -I eth0 {PEER}", check=False)
        wait_until(lambda: error(site).startswith(ERROR), ERROR)
        assert site.host.status(PORT)["status"] == status
        assert ERROR in site.host.appctl("vhost/show")
    with site.qemu(path):
        site.ping(1000)
        wait_until(lambda: not error(site), "the error's end")
        assert site.stats()["errors"] == {ERROR: 1}
