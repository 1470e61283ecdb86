# SPDX-License-Identifier: Apache-2.0
"""The modules' logs: their names, levels and rates."""

import ovs.vlog
import pytest

from ovs_vhost_plugin.common.logs import vlog as module
from ovs_vhost_plugin.common.logs.rates import BURST, LogRates
from ovs_vhost_plugin.common.logs.vlog import Vlog

log = Vlog("vhost_test_vlog")


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Poller:
    until = None

    def timer_wait_until(self, msec: float) -> None:
        self.until = msec


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_rates", LogRates())
    return clock


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    lines: list[tuple[str, str, str]] = []
    for level in ("info", "warn", "err", "emer"):

        def logged(self, line: str, level: str = level) -> None:
            lines.append((self.name, level, line))

        monkeypatch.setattr(ovs.vlog.Vlog, level, logged)
    return lines


def change(state: str) -> None:
    log.info(f"vm0: {state}")


def test_a_line_is_the_modules_with_its_level(clock, lines) -> None:
    log.info("vm0: running")
    log.warn("vm0: bad")
    log.err("worse")
    log.emer("the end")
    assert lines == [
        ("vhost_test_vlog", "info", "vm0: running"),
        ("vhost_test_vlog", "warn", "vm0: bad"),
        ("vhost_test_vlog", "err", "worse"),
        ("vhost_test_vlog", "emer", "the end"),
    ]


def test_each_place_in_the_code_has_its_own_rate(clock, lines) -> None:
    for _ in range(100):
        change("connected")
    log.info("vm0: removed")
    assert len(lines) == BURST + 1
    assert lines[-1][2] == "vm0: removed"


def test_the_loop_wakes_to_tell_of_what_was_dropped(clock, lines) -> None:
    poller = Poller()
    Vlog.wait(poller)
    assert poller.until is None
    for _ in range(BURST + 5):
        change("connected")
    Vlog.wait(poller)
    assert poller.until == pytest.approx(110_000.0)
    del lines[:]

    Vlog.run(clock.now + 10.001)

    ((name, level, line),) = lines
    assert (name, level) == ("vhost_test_vlog", "info")
    assert line.startswith("vm0: Dropped 5 log messages") and line.endswith("connected")


def test_what_no_destination_wants_costs_nothing(clock, lines, monkeypatch) -> None:
    monkeypatch.setattr(ovs.vlog.Vlog, "info_is_enabled", lambda _: False)
    for _ in range(100):
        change("connected")
    assert not lines and not module._rates._buckets


def test_all_modules_of_the_product_use_it() -> None:
    """The bindings' own has no rate: what others can make it say, it says each time."""
    from support.checkout import TOP

    product = TOP / "ovs_vhost_plugin"
    direct = [p.name for p in product.rglob("*.py") if "ovs.vlog.Vlog(" in p.read_text()]
    assert direct == ["vlog.py"]
