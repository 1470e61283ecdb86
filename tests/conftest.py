# SPDX-License-Identifier: Apache-2.0
"""What all kinds of tests share: saying what a machine lacks."""

import os
from collections.abc import Callable

import pytest


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
