# SPDX-License-Identifier: Apache-2.0
"""Hosts to attack. Each test's ports are its own; the hosts are shared by a file's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.attacks.attack_hosts import Evil, EvilHost
from support.control.control_host import end_workers

from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until


@pytest.fixture(scope="module")
def directory(require: Callable[[object, str], None]) -> Iterator[Path]:
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    with TemporaryDirectory(prefix="ovh-attack-") as top:
        Path(top).chmod(0o755)  # strangers can come as far as to what is to stop them
        yield Path(top)


@pytest.fixture(scope="module")
def evil_host(directory: Path) -> Iterator[EvilHost]:
    """A host whose workers have been taken over."""
    with EvilHost("evil", directory / "evil") as host:
        yield host
        end_workers(host)


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[Host]:
    """A host with the product's own workers."""
    with Host("attacked", directory / "host") as host:
        yield host
        end_workers(host)


@pytest.fixture
def evil(evil_host: EvilHost) -> Iterator[Evil]:
    """A port whose worker does what it is told; it is gone afterwards."""
    with evil_host.evil_port("evil0") as evil:
        yield evil
    evil_host.delete_port("evil0")
    wait_until(lambda: not list(evil_host.state.glob("evil0.*")), "its end")
