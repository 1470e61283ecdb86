# SPDX-License-Identifier: Apache-2.0
"""The benchmark of many ports, with a few: each thing that has a goal is measured, none lost."""

import json
import subprocess
import sys

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.lab.platform import packages

pytestmark = pytest.mark.system


def test_each_thing_that_has_a_goal_is_measured(require):
    words = packages.missing(packages.TEST)
    require(words is None, words)
    options = ("--json", "--taps", "--ports=4", "--seconds=0.1")
    done = subprocess.run(
        [sys.executable, "-m", "ovs_vhost_plugin.bench.scale.bench_scale", *options],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    results = {one["what"].strip(): one for one in json.loads(done.stdout)["results"]}
    assert sum(one["goal"] is not None for one in results.values()) == 20
    lost = [one["measured"] for what, one in results.items() if " lost" in what]
    assert lost == [0, 0]
