# SPDX-License-Identifier: Apache-2.0
"""What the tests with QEMU guests share: programs they need, and nothing left behind."""

import pytest

from ovs_vhost_plugin.lab.platform import packages


@pytest.fixture(scope="session")
def qemu_programs(require):
    words = packages.missing((*packages.SWITCH, *packages.GUEST, *packages.TEST), root=False)
    require(words is None, words)
