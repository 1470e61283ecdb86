# SPDX-License-Identifier: Apache-2.0
"""When it is said that the front-end does not share its guest's memory, and when not."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovs_vhost_plugin.vhost.memory.iotlb import MissingError
from ovs_vhost_plugin.vhost.spec import IotlbAccess
from ovs_vhost_plugin.worker.device.sharing import Sharing

NOW = 70.0


class Port:
    """Two rings of a guest, and what the worker can see of them."""

    def __init__(self) -> None:
        self.ready = True
        self.kicked = [0, 0]
        self.told = False
        """Whether the worker is told of each kick."""
        self.memory: Any = object()
        self.rings = [
            SimpleNamespace(desc=np.zeros(64, np.uint8), avail=np.zeros(14, np.uint8))
            for _ in range(2)
        ]
        vrings = [SimpleNamespace(index=i, ready=lambda: self.ready) for i in range(2)]
        self.resources: Any = SimpleNamespace(
            session=SimpleNamespace(vrings=vrings),
            memory=self.memory,
            pages_missing=False,
            vring=lambda index, at: self.rings[index],
        )
        rings: Any = SimpleNamespace(
            kicks=lambda index: self.kicked[index], tell_of_kicks=self.tell
        )
        self.sharing = Sharing(self.resources, rings)
        self.sharing.begin()

    def tell(self, told: bool) -> None:
        self.told = told

    def kick(self, at: float) -> None:
        """The guest kicks its first ring `at` seconds after the start."""
        self.kicked[0] += 1
        if self.told:
            self.sharing.handle_timer(NOW + at)

    @property
    def next_look(self) -> float | None:
        """In seconds after the start."""
        due = self.sharing.get_timer()
        return None if due is None else due - NOW

    def said(self, seconds: float) -> str:
        """What is said of it so long after, looked at whenever that is due."""
        now = NOW
        self.sharing.handle_timer(now)
        while (due := self.sharing.get_timer()) is not None and due <= NOW + seconds:
            assert due > now, "it would not sleep"
            now = due
            self.sharing.handle_timer(now)
        error = self.sharing.error
        return "" if error is None else f"{error.name}: {error.detail}"


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.mark.parametrize("ring", [0, 1])
def test_a_guest_that_kicks_and_has_nothing_in_any_ring(port: Port, ring: int) -> None:
    port.kicked[ring] = 2
    assert port.said(10).startswith("memory-not-shared: the guest kicks")


def test_rings_without_memory(port: Port) -> None:
    port.resources.memory = None
    assert port.said(1) == ""  # it may be on its way
    assert port.said(10).startswith("memory-not-shared: rings are set up and there is no memory")


@pytest.mark.parametrize("part", ["desc", "avail"])
@pytest.mark.parametrize("ring", [0, 1])
def test_one_ring_that_a_driver_has_written_is_enough(port: Port, ring: int, part: str) -> None:
    port.kicked = [9, 9]
    getattr(port.rings[ring], part)[5] = 1
    assert port.said(100) == ""
    assert port.sharing.get_timer() is None  # it is not looked at again


@pytest.mark.parametrize("kicked", [0, 1])
def test_what_qemu_kicks_of_itself_is_not_the_guest(port: Port, kicked: int) -> None:
    """A guest whose interface is down."""
    port.kicked = [kicked, kicked]
    assert port.said(100) == ""


def test_a_guest_that_never_uses_its_nic_is_looked_at_once_and_then_when_it_kicks(
    port: Port,
) -> None:
    port.sharing.handle_timer(NOW)
    assert port.next_look == 2
    assert port.said(2) == "" and port.next_look is None
    port.kick(86400)  # QEMU
    assert port.sharing.error is None and port.next_look is None
    port.kick(86401)
    assert port.sharing.error is not None


def test_a_guest_that_uses_its_nic_is_not_looked_at_by_a_timer(port: Port) -> None:
    port.sharing.handle_timer(NOW)
    port.rings[0].avail[2] = 1
    port.kick(0.5)
    assert port.next_look is None and not port.told
    assert port.said(100) == ""


def test_what_is_told_is_looked_at_while_the_guest_kicks_as_it_may_be_over(port: Port) -> None:
    port.kicked = [2, 0]
    assert port.said(2) and port.next_look == 10
    port.kick(3)
    assert not port.told, "it may kick with each frame"
    assert port.said(10) and port.next_look == 18
    assert port.said(18) and port.next_look is None
    port.rings[1].desc[0] = 1
    port.kick(3600)
    assert port.sharing.error is None and port.next_look is None and not port.told


def test_a_guest_whose_pages_come_by_postcopy_wakes_nobody_by_its_kicks(port: Port) -> None:
    port.sharing.handle_timer(NOW)
    port.resources.pages_missing = True
    port.sharing.handle_timer(NOW + 1)
    assert not port.told and port.next_look is None
    port.resources.pages_missing = False
    port.sharing.handle_timer(NOW + 5)
    assert port.told and port.next_look == 7


def test_rings_that_are_not_set_up_yet(port: Port) -> None:
    port.ready, port.resources.memory = False, None
    assert port.said(100) == "" and port.sharing.get_timer() is None


def test_memory_that_comes_later_by_postcopy(port: Port) -> None:
    port.kicked = [9, 9]
    port.resources.pages_missing = True
    assert port.said(100) == ""


def test_rings_whose_translation_has_not_come(port: Port) -> None:
    def vring(index: int, at: int) -> Any:
        raise MissingError(0, IotlbAccess.READ)

    port.resources.vring = vring
    port.kicked = [1, 1]
    assert port.said(100) == ""


def test_it_is_taken_back_when_a_ring_is_used_after_all(port: Port) -> None:
    port.kicked = [2, 0]
    assert port.said(10)
    port.rings[1].avail[2] = 1
    assert port.said(100) == ""


def test_it_is_looked_at_anew_when_rings_are_started_anew(port: Port) -> None:
    port.kicked = [2, 0]
    assert port.said(10)
    port.sharing.begin()
    assert port.said(1) == ""
    assert port.said(10)


def test_a_front_end_that_has_gone_is_not_looked_at(port: Port) -> None:
    port.kicked = [2, 0]
    port.sharing.end()
    assert port.said(100) == "" and port.sharing.get_timer() is None
