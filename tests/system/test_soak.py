# SPDX-License-Identifier: Apache-2.0
"""A short soak: each fault once, in an order that a seed decides."""

import os

import pytest
from soak.loops import LOOPS
from soak.machine import missing
from soak.run import soak

from ovs_vhost_plugin.lab.platform import packages

pytestmark = pytest.mark.system

SEED = 20260731
PORTS = 4


def test_each_fault_once(require):
    require(os.geteuid() == 0, "mounting takes root")
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    no_machines = missing()
    print(no_machines or "with a machine")
    assert soak(0, SEED, PORTS, say=print, machines=0 if no_machines else 1) == []


@pytest.mark.parametrize(("loop", "count"), [("connects", 100), ("adds", 10), ("migrations", 2)])
def test_each_loop_leaves_all_as_it_was(loop, count, require):
    require(os.geteuid() == 0, "mounting takes root")
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    assert LOOPS[loop](count, say=print) == []
