# SPDX-License-Identifier: Apache-2.0
"""What unit tests of several packages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.vswitchd.peer import Notes, Peer

# Property tests are not timed: an example that is held up for a moment is not wrong. Hypothesis
# does so by itself where it sees that it is in CI; here it is so everywhere.

settings.register_profile(
    "unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(tmp_path / "peer")
    yield peer
    peer.close()
