# SPDX-License-Identifier: Apache-2.0
"""What all kinds of tests share: limits of time, and saying what a machine lacks."""

import os
from collections.abc import Callable
from pathlib import Path

import limits
import pytest

from ovs_vhost_plugin.jit import cache

pytest.register_assert_rewrite("support")  # a helper's assertion says what it saw, as a test's does


def _share_compiled_kernels() -> None:
    """Have all tests, and the daemons they start, keep kernels in this checkout's `.cache`.

    Where the checkout is not wholly of the user's who runs the tests, as with sudo in a home
    directory, the product's own place serves.
    """
    place = Path(__file__).parent / ".cache" / "kernels"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault(cache.VARIABLE, os.fspath(place))
    if cache.find().directory is None:
        del os.environ[cache.VARIABLE]


_share_compiled_kernels()  # before any test imports a kernel


def pytest_configure(config: pytest.Config) -> None:
    """Give each test its limit of time."""
    config.pluginmanager.register(limits)


@pytest.fixture(scope="session")
def require() -> Callable[[object, str], None]:
    """`require(present, reason)`: skip the test with the reason unless `present`.

    In CI (environment CI=true) the machine is to have everything, so there it fails.
    """

    def check(present: object, reason: str) -> None:
        if present:
            return
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI lacks what this test needs: {reason}", pytrace=False)
        pytest.skip(reason)

    return check


@pytest.fixture(autouse=True)
def _root(request: pytest.FixtureRequest) -> None:
    """Integration and system tests need root; unit tests must not."""
    if any(request.node.get_closest_marker(kind) for kind in ("integration", "system")):
        request.getfixturevalue("require")(os.geteuid() == 0, "needs root")
