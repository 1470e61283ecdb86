# SPDX-License-Identifier: Apache-2.0
"""What platform tests share: root, programs, and namespaces of their own."""

from collections.abc import Callable, Iterator

import pytest

from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.platform import packages


@pytest.fixture(scope="session", autouse=True)
def _machine(require: Callable[[object, str], None]) -> None:
    lacking = packages.missing((*packages.SWITCH, packages.NFT, packages.GUEST[0]))
    require(lacking is None, lacking or "")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace, in which the test runs."""
    with Namespace("platform") as made, made.entered():
        yield made
