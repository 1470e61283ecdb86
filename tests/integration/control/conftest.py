# SPDX-License-Identifier: Apache-2.0
"""A private host whose daemon has fake workers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.control.control_host import ControlHost
from support.control.puppet import PORT, FrontEnd

from ovs_vhost_plugin.lab.platform import packages


@pytest.fixture
def make_host(require: Callable[[object, str], None]) -> Iterator[Callable[..., ControlHost]]:
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    with ExitStack() as stack:
        # Not tmp_path: a socket's path has at most 107 bytes.
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))

        def make(label: str = "control", **options: Any) -> ControlHost:
            return stack.enter_context(ControlHost(label, Path(top) / label, **options))

        yield make


@pytest.fixture
def host(make_host: Callable[..., ControlHost]) -> ControlHost:
    return make_host()


@pytest.fixture
def front_ends() -> Iterator[list[FrontEnd]]:
    made: list[FrontEnd] = []
    yield made
    for one in made:
        one.close()


@pytest.fixture
def add(host: Any, front_ends: list[FrontEnd]) -> Any:
    """Add a port and connect a front-end to it."""

    def make(*settings: str, port: str = PORT) -> FrontEnd:
        path = host.add_server_port(port, *settings)
        host.wait_ofport(port)
        host.wait_status(port, "listening")
        front_ends.append(FrontEnd(host, port, path))
        return front_ends[-1]

    return make
