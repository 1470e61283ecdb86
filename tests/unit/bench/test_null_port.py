# SPDX-License-Identifier: Apache-2.0
"""The rings' benchmark is run by hand; that its port still starts on ours is seen here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.checkout import TOP


def test_the_port_of_the_benchmark_starts_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ovs_vhost_plugin.bench.rings.null_port", str(tmp_path / "socket")],
        cwd=TOP,
        input="idle\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tx_packets"] == 0
