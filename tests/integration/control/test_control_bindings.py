# SPDX-License-Identifier: Apache-2.0
"""The daemon with the Open vSwitch bindings of the distribution instead of PyPI's.

Debian 12 has them as of 3.1, Debian 13 as of 3.5; both with the C code that parses JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def distribution(require, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The distribution's `ovs`, which daemons find from now on; nothing else of it is taken."""
    lacking = packages.missing((*packages.BINDINGS, *packages.SWITCH))
    require(lacking is None, lacking or "")
    asked = "import sys; print(*sys.version_info[:2])"
    version = subprocess.run(
        ["/usr/bin/python3", "-c", asked], capture_output=True, text=True, check=True
    )
    require(
        version.stdout.split() == [str(part) for part in sys.version_info[:2]],
        "the distribution's own Python, for which its compiled modules are",
    )
    for program in packages.BINDINGS:
        module = Path(program.name).parent
        (tmp_path / module.name).symlink_to(module)
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    return Path(packages.BINDINGS[0].name).parent


def test_the_daemon_runs_with_the_distribution_s_bindings(distribution, make_host) -> None:
    host = make_host(daemon_options=["--adopt-dpdk-types", "--monitor"])
    # The C code is mapped while the daemon runs: it is really the distribution's.
    pid = int((host.directory / "ovs-vhost.pid").read_text())
    assert f"{distribution}/_json." in Path(f"/proc/{pid}/maps").read_text()

    host.add_client_port("vhu0", None, "mtu_request=2000")
    host.switch.add_port(BRIDGE, "vhu1", "type=dpdkvhostuser")
    host.wait_status("vhu0", "connecting")
    host.wait_status("vhu1", "listening")
    host.switch.wait_until("Open_vSwitch", ".", "iface_types{>=}dpdkvhostuserclient")

    host.switch.restart_server()
    host.delete_port("vhu1")
    host.add_server_port("vhu2")
    host.wait_status("vhu2", "listening")
    wait_until(lambda: not host.link("vhu1"), "the end of vhu1")
    shown = json.loads(host.appctl("vhost/show", "--format", "json"))
    assert [port["name"] for port in shown["ports"]] == ["vhu0", "vhu2"]
    refused = host.appctl("vhost/stats", "vhu9", check=False)
    assert not refused

    host.appctl("exit", "--cleanup")
    assert host.daemon.wait(PATIENCE) == 0
    assert not host.leftovers()
    assert "| ERR |" not in host.log.read_text()
