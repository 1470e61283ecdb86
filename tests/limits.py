# SPDX-License-Identifier: Apache-2.0
"""How long a test may take, by its kind, and what ends one that takes longer.

At its limit pytest-timeout raises in the test, by SIGALRM: the test fails by its name, its fixtures
take down what they made, and the others go on. Its other method, a thread, would end the process
and leave namespaces behind.

Compiled code that never returns lets no signal handler run. So at twice the limit faulthandler's
own thread, which needs no interpreter, writes where each thread stands, the test's function among
it, and ends the process. What that leaves behind is removed when tests begin the next time.
"""

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.hosts import namespace

LIMITS = {
    "unit": 300,
    "fuzz": 600,
    "integration": 300,
    "attacks": 300,
    "system": 900,
    "platform": 120,
}
"""Seconds by kind: five times what the slowest takes on two processors."""

_TOP = Path(__file__).parents[1]
_PLACES = (_TOP / "tests", _TOP / "docs")


def kind_of(path: Path) -> str:
    """The kind of a test in the file `path`: its directory below tests/ or docs/; "" elsewhere."""
    places = (place for place in _PLACES if path.is_relative_to(place))
    return next((path.relative_to(place).parts[0] for place in places), "")


@pytest.hookimpl
def pytest_sessionstart() -> None:
    """Remove what was left by tests whose process has ended."""
    if os.geteuid() == 0:
        namespace.sweep()


@pytest.hookimpl
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its kind's limit, unless it has one of its own, or --timeout says another."""
    if config.getoption("timeout") is not None:
        return
    for item in items:
        limit = LIMITS.get(kind_of(item.path))
        if limit is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(limit))


class Watchdog:
    """Ends a process whose test does not come back at its limit."""

    def __init__(self, stderr: int) -> None:
        self._stderr = stderr

    def watch(self, item: pytest.Item) -> None:
        """Begin anew for what of `item` comes now."""
        marker = item.get_closest_marker("timeout")
        if marker is not None and marker.args[0] > 0:
            seconds = 2 * marker.args[0]
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._stderr)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.watch(item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        self.watch(item)  # a failure has ended both: pytest lets a debugger take its time

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        result = yield
        faulthandler.cancel_dump_traceback_later()
        return result


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    """Begin to watch. What it says is for the terminal, not for a test's captured output."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        stderr = os.dup(2)
    config.pluginmanager.register(Watchdog(stderr))
    config.add_cleanup(lambda: os.close(stderr))
