# SPDX-License-Identifier: Apache-2.0
"""What unit tests of several packages share; and none of them depends on time."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.jit.compiled import compile_all
from support.vswitchd.peer import Notes, Peer

# An example that is held up for a moment is not wrong. Hypothesis does so by itself where it sees
# that it is in CI; here it is so everywhere.
settings.register_profile(
    "unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Compile the kernels once, and not in each process of tests."""
    compile_all()


LONGEST = ("test_instructions.py", "test_plain_python.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that take 10 s or more: at the end one processor would wait for them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Leave out of each collection of garbage all that numba and the kernels have made by now.

    Tests that look for leaks collect garbage. A million objects that stay would cost each 0.2 s.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(tmp_path / "peer")
    yield peer
    peer.close()
