# SPDX-License-Identifier: Apache-2.0
"""A host with a switch and a daemon, and a peer on its bridge."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.system.virtio_site import Peer, plugged

from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.platform import packages


@pytest.fixture(scope="package")
def host(require):
    words = packages.missing((*packages.SWITCH, *packages.TEST), root=False)
    require(words is None, words)
    with ExitStack() as stack:
        # Not pytest's directory: a socket's path has at most 107 bytes.
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        made = stack.enter_context(Host("dpdk", Path(top, "h")))
        yield made


@pytest.fixture(scope="package")
def peer(host):
    with Peer(host) as made:
        yield made


@pytest.fixture
def plug(host):
    """`plug(mode, config)`: a port and a running testpmd on it."""
    with ExitStack() as stack:
        yield lambda mode, config: stack.enter_context(plugged(host, mode, config))
