# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the rings: at full speed, both ends count the same packets."""

import json
import os
import subprocess
import sys

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.lab.platform import packages

pytestmark = pytest.mark.system


def test_no_packet_goes_astray_in_the_benchmark(require):
    words = packages.missing(packages.TEST, root=False)
    require(words is None, words)
    require((os.cpu_count() or 1) > 1, "needs a core for each end")
    options = ("--json", "--small-pages", "--rounds=1", "--seconds=0.1", "--only=split 256 1518")
    done = subprocess.run(
        [sys.executable, "-m", "ovs_vhost_plugin.bench.rings.bench_rings", *options],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [result["direction"] for result in results] == ["send", "receive", "loopback"]
    assert all(result["dpdk"] > 0 and result["ours"] > 0 for result in results)
