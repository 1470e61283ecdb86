# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost bench` as whoever installed the package runs it: from anywhere, for a program."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.platform import packages

pytestmark = pytest.mark.system


def test_a_benchmark_on_a_real_switch_prints_its_rows_as_json(require, tmp_path):
    words = packages.missing(())
    require(words is None, words)
    command = Path(sys.executable).with_name("ovs-vhost")
    copy = tmp_path / "found.json"
    done = subprocess.run(
        [command, "bench", "--quick", "--only", "announce", "--format", "json", "--json", copy],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads(copy.read_text())
    measured = {row["what"]: row["figure"] for row in found["rows"]}
    for share in ("median", "p99"):
        assert measured[f"ovs-vhost: announce-self to learned, {share}"] > 0
