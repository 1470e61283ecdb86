# SPDX-License-Identifier: Apache-2.0
"""Ports that the release before this one has started: adopted, served, replaced when they may be.

That release is taken from the history of this checkout. A shallow clone does not have it, and has
not got these tests either (conftest.py).
"""

import io
import json
import tarfile
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.checkout import RELEASE_BEFORE, TOP, archive
from support.system.soft_ports import SoftPort, carrier_changes, check_inward, check_outward, settle

from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

SIZES = (60, 600, 1514)


@pytest.fixture(scope="module")
def old_code(tmp_path_factory):
    """A directory with the product as it was."""
    code = archive(RELEASE_BEFORE)
    directory = tmp_path_factory.mktemp("release-before")
    with tarfile.open(fileobj=io.BytesIO(code)) as files:
        files.extractall(directory, filter="data")
    return directory


@pytest.fixture(scope="module")
def host(require, old_code):
    """A host whose daemon and workers are of the release before."""
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with ExitStack() as stack:
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        made = stack.enter_context(Host("before", Path(top, "h"), daemon=False))
        made.switch.ofctl("del-flows", str(made.directory / f"{BRIDGE}.mgmt"))
        yield made


@pytest.fixture
def ports(host, old_code):
    """Two ports of the release before: `.busy` has a guest, `.idle` has none."""
    run(host, old_code)
    with ExitStack() as stack:
        yield [stack.enter_context(SoftPort(host)) for _ in range(2)]
    host.stop_daemon()


def run(host, code):
    """Have the daemon of `code` run on the host; the workers go on."""
    host.stop_daemon()
    new = code == TOP
    host.code = code
    # Either release removes the other's kernels where both have one cache.
    host.environment = {} if new else {"OVS_VHOST_CACHE_DIR": str(code / "cache")}
    host.start_daemon()


def worker(host, name):
    """The worker as `vhost/show` has it; {} while the daemon does not know it."""
    shown = json.loads(host.appctl("vhost/show", "--format", "json"))["ports"]
    found = [port["worker"] for port in shown if port["name"] == name]
    return (found and found[0]) or {}


def test_its_workers_are_adopted_and_serve_until_their_front_ends_leave(host, ports):
    busy, idle = ports
    guest = busy.guest(Config())
    check_outward(busy, guest, SIZES)
    pids, changes = [busy.pid, idle.pid], carrier_changes(host, busy.name)

    run(host, TOP)
    wait_until(lambda: worker(host, busy.name).get("phase") == "running", "the worker's adoption")
    assert worker(host, busy.name)["protocol"] == 2
    wait_until(lambda: worker(host, busy.name)["outdated"], "the fork server's build")
    assert "older release" in worker(host, busy.name)["outdated"]
    assert "older release" in host.appctl("vhost/show")

    # It serves, is told settings and asked for counters, and the link has not dropped.
    check_inward(busy, guest, SIZES)
    check_outward(busy, guest, SIZES)
    assert busy.counters()["tx_packets"] == 2 * len(SIZES)
    host.switch.vsctl("set", "Interface", busy.name, "external_ids:vhost-user-hold=false")
    check_inward(busy, guest, SIZES)
    assert carrier_changes(host, busy.name) == changes
    assert busy.pid == pids[0]
    told = json.loads(host.appctl("vhost/upgrade", busy.name, "--format", "json"))["ports"]
    assert "without handover" in told[busy.name]

    # The other one is missed by nobody.
    wait_until(lambda: idle.pid != pids[1], "another worker of the idle port")
    host.wait_status(idle.name, "listening")
    wait_until(lambda: worker(host, idle.name).get("outdated") == "", "a worker of this release")
    check_outward(idle, idle.guest(Config()), SIZES)

    # And this one once its front-end leaves.
    guest.frontend.close()
    guest.frontend = None
    wait_until(lambda: busy.pid != pids[0], "another worker")
    host.wait_status(busy.name, "listening")
    guest.start()
    settle(guest)
    busy.wait_carrier()
    check_outward(busy, guest, SIZES)
    check_inward(busy, guest, SIZES)
    shown = json.loads(host.appctl("vhost/show", "--format", "json"))
    assert shown["faults"] == {}, "nothing was a fault"
