# SPDX-License-Identifier: Apache-2.0
"""The software guest on real workers, which a real daemon started."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.checkout import RELEASE_BEFORE, archive
from support.system.soft_ports import SoftPort

from ovs_vhost_plugin.lab.hosts.fabric import Fabric
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.platform import packages

collect_ignore = [] if archive(RELEASE_BEFORE) else ["test_soft_release_before.py"]


@pytest.fixture(scope="package")
def soft_host(require):
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with ExitStack() as stack:
        # Not pytest's directory: a socket's path has at most 107 bytes.
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        host = stack.enter_context(Host("soft", Path(top, "h")))
        # What is seen on a tap shall be its own guest's, not what the bridge floods.
        host.switch.ofctl("del-flows", str(host.directory / f"{BRIDGE}.mgmt"))
        yield host


@pytest.fixture(scope="module")
def fabric(require):
    """Two hosts, and the switch between them."""
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with Fabric() as made:
        yield made


@pytest.fixture
def plug(soft_host):
    """`plug(queues=1)`: a new port with a worker of its own that listens."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(SoftPort(soft_host, **settings))


@pytest.fixture
def port(plug):
    return plug()
