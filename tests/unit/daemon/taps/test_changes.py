# SPDX-License-Identifier: Apache-2.0
"""Changes of taps in a thread: one after the other, their ends in the loop."""

import os
import select
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ovs_vhost_plugin.daemon.taps.changes import TapChanges
from ovs_vhost_plugin.tap import TapError, TapErrorName

NOW = 7.0


class Poller:
    """Waits for the fds that it is told."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def fd_wait(self, fd: int, _events: int) -> None:
        self.fds.append(fd)

    def block(self, seconds: float) -> bool:
        return bool(select.select(self.fds, [], [], seconds)[0])


class Site:
    def __init__(self) -> None:
        self.changes = TapChanges(ThreadPoolExecutor(1))
        self.go_on = threading.Semaphore(0)
        self.told: list[Any] = []

    def begin(self, name: str, error: Exception | None = None) -> None:
        def change(of: str) -> str:
            assert self.go_on.acquire(timeout=60)
            if error is not None:
                raise error
            return f"{of} by {threading.current_thread() is threading.main_thread()}"

        def note(*what: Any) -> None:
            self.told.append((name, *what))

        self.changes.begin(name, change, note, note)

    def woken(self, seconds: float = 60.0) -> bool:
        poller = Poller()
        self.changes.wait(poller)
        return poller.block(seconds)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.go_on.release(9)
    site.changes.close()


def test_the_loop_hears_of_the_end_and_finishes_it(site: Site) -> None:
    site.begin("vhu0")
    assert not site.woken(0) and site.changes.run(NOW) == []
    assert site.changes.is_under_way("vhu0") and not site.told
    site.go_on.release()
    assert site.woken()
    assert site.changes.run(NOW) == ["vhu0"]
    assert site.told == [("vhu0", "vhu0 by False", NOW)]
    assert not site.changes.is_under_way("vhu0") and not site.woken(0)


def test_one_after_the_other(site: Site) -> None:
    for name in ("vhu0", "vhu1"):
        site.begin(name)
    site.go_on.release()
    assert site.woken() and site.changes.run(NOW) == ["vhu0"]
    assert site.changes.is_under_way("vhu1")


def test_what_is_wrong_with_a_tap_is_told_and_all_else_is_raised(site: Site) -> None:
    wrong = TapError(TapErrorName.HELD, "x")
    site.begin("vhu0", wrong)
    site.go_on.release()
    assert site.woken() and site.changes.run(NOW) == ["vhu0"]
    assert site.told == [("vhu0", wrong, NOW)]
    site.begin("vhu1", RuntimeError("cannot return"))
    site.go_on.release()
    assert site.woken()
    with pytest.raises(RuntimeError):
        site.changes.run(NOW)


def test_the_next_change_of_a_tap_may_begin_at_the_end_of_one(site: Site) -> None:
    site.go_on.release(2)

    def again(_: object, _now: float) -> None:
        site.begin("vhu0")

    site.changes.begin("vhu0", lambda _: site.go_on.acquire(timeout=60), again, again)
    assert site.woken()
    site.changes.run(NOW)
    if not site.told:
        assert site.woken() and site.changes.run(NOW) == ["vhu0"]
    assert site.told == [("vhu0", "vhu0 by False", NOW)]


def test_settling_finishes_what_has_begun_and_nothing_else(site: Site) -> None:
    begun = threading.Event()

    def first(_: str) -> None:
        begun.set()
        site.go_on.acquire(timeout=60)

    site.changes.begin("vhu0", first, lambda *_: site.told.append("vhu0"), lambda *_: None)
    site.begin("vhu1")
    assert begun.wait(60)
    site.go_on.release()
    site.changes.settle(NOW)
    assert site.told == ["vhu0"]
    assert not any(site.changes.is_under_way(name) for name in ("vhu0", "vhu1"))
    assert site.changes.run(NOW) == []


def test_closing_waits_for_the_thread() -> None:
    site = Site()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    site.begin("vhu0")
    site.begin("vhu1")
    site.go_on.release()
    site.changes.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # noqa: PTH208
