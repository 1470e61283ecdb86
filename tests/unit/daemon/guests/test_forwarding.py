# SPDX-License-Identifier: Apache-2.0
"""Forwarding, told the time, the rows and the MAC table; worker and bridge note what they get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.daemon.ports import PORT

from ovs_vhost_plugin.daemon.events import Ended, Heard
from ovs_vhost_plugin.daemon.guests import forwarding
from ovs_vhost_plugin.daemon.guests.forwarding import Forwarding
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.ovsdb.switch_row import Switch
from ovs_vhost_plugin.forward.allowance import BATCHES, BYTES, FRAMES, HOLDS_AT_ONCE, SECONDS
from ovs_vhost_plugin.forward.hold import PAUSE
from ovs_vhost_plugin.ipc.commands import Release
from ovs_vhost_plugin.ipc.reports import HeldFrames, HoldState, PortState
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.net.station import Station, StationKey
from ovs_vhost_plugin.net.vlan import PortVlan
from ovs_vhost_plugin.openflow.connection import Done
from ovs_vhost_plugin.openflow.wire import Output
from ovs_vhost_plugin.vswitchd.unixctl import Answer, NoAnswer, Question, Then

GUEST = bytes.fromhex("525400000001")
STATION = StationKey(GUEST, 0)
HERE, THERE = 3, 1
LOG_ALL = "0x0000000104000000"
OWN = bytes.fromhex("0a0000000009")


def table(port: int, mac: bytes = GUEST) -> str:
    return f" port  VLAN  MAC                Age\n    {port}     0  {mac.hex(':')}    0\n"


def frame(number: int, mac: bytes = GUEST) -> bytes:
    return mac + b"\2" * 6 + b"\x08\x00" + number.to_bytes(46, "big")


def sent(number: int, mac: bytes = GUEST) -> bytes:
    """`frame` as it goes on: an IP packet, in the host's own name."""
    return mac + OWN + frame(number)[12:]


class FakeTables:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.then: list[Then] = []

    def ask(self, question: Question, then: Then, now: float) -> None:
        self.asked += question.params
        self.then.append(then)

    def answer(self, text: str | None, now: float) -> None:
        waiting, self.then, self.asked = self.then, [], []
        for then in waiting:
            then(NoAnswer("x") if text is None else Answer(text), now)


class FakeBridge:
    """A bridge that answers when it is told to."""

    made: list[FakeBridge]

    def __init__(self, path: str) -> None:
        self.path, self.idle, self.closed = path, True, False
        self.sent: list[Any] = []
        self.taught: list[tuple[int, bytes]] = []
        self.answer: Done | None = None
        FakeBridge.made.append(self)

    def packets_to(self, batch: list[Any], now: float) -> None:
        assert self.idle
        self.sent.append(list(batch))
        self.idle = False

    def packet_out(self, in_port: int, frame: bytes, output: Output) -> None:
        assert self.idle and output is Output.NORMAL
        self.taught.append((in_port, frame))

    def run(self, now: float) -> list[Done]:
        answer, self.answer = self.answer, None
        self.idle = self.idle or answer is not None
        return [] if answer is None else [answer]

    def wait(self, poller: Any) -> None:
        pass

    def close(self) -> list[Done]:
        self.closed = True
        return []


class Poller:
    def __init__(self) -> None:
        self.at: list[float] = []

    def timer_wait_until(self, msec: float) -> None:
        self.at.append(msec / 1e3)


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[Release] = []
        self.tables = FakeTables()
        self.moves = Moves()
        self.forwarding = Forwarding(self._send, self.tables, self.moves)  # type: ignore[arg-type]
        self.locate()

    def locate(self, others: dict[str, PortSpec] | None = None, **changes: Any) -> None:
        port = replace(PORT, name="vhu0", bridge="br0", ofport=HERE, **changes)
        vlans = {("br0", HERE): PortVlan(), ("br0", THERE): PortVlan(), ("br1", THERE): PortVlan()}
        switch = Switch("/run/ovs", "", False, frozenset())
        ports = {"vhu0": port, **(others or {})}
        snapshot = Snapshot(switch, ports, own_macs={"br0": {OWN.hex(":")}}, vlans=vlans)
        self.forwarding.locate(snapshot)

    def hear(self, *reports: Any, after: float = 0.0) -> None:
        self.now += after
        self.forwarding.take([Heard("vhu0", report) for report in reports], self.now)
        self.forwarding.run(self.now)

    def holding(self, *stations: StationKey, hold: int = 1, after: float = 0.0) -> None:
        self.hear(HoldState(hold, True, stations, {}), after=after)

    def table(self, text: str | None, after: float = 0.001) -> None:
        assert self.tables.asked, "nobody asked"
        self.now += after
        self.tables.answer(text, self.now)
        self.hear()

    def asked(self) -> list[str]:
        return self.tables.asked

    @property
    def bridge(self) -> FakeBridge:
        return FakeBridge.made[-1]

    def wakes(self) -> list[float]:
        poller = Poller()
        self.forwarding.wait(poller)
        return poller.at

    def _send(self, name: str, command: Release, _now: float) -> bool:
        assert name == "vhu0"
        self.told.append(command)
        return True


def state(features: str) -> PortState:
    return PortState("running", "/x", features, "", 2, (256, 256), None, "", "", 0)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    FakeBridge.made = []
    monkeypatch.setattr(forwarding, "BridgeConnection", FakeBridge)
    return World()


def found(world: World) -> None:
    """A guest that has left and was learned there, with frames held for it."""
    world.hear(state(LOG_ALL))
    world.table(table(HERE))
    world.holding(STATION)
    world.table(table(THERE))


def test_a_guest_is_followed_batch_after_batch(world: World) -> None:
    found(world)
    assert world.told == [Release(1, (STATION,))]
    assert world.bridge.path == "/run/ovs/br0.mgmt"
    world.hear(HeldFrames(1, (frame(1), frame(2)), True))
    assert world.bridge.sent == [[(sent(1), THERE), (sent(2), THERE)]]
    assert len(world.told) == 1  # not before these have arrived
    world.bridge.answer = Done(1, 2)
    world.hear()
    assert world.told[1:] == [Release(2, (STATION,))]
    world.hear(HeldFrames(2, (frame(3),), False))
    world.bridge.answer = Done(1, 1)
    world.hear()
    assert len(world.told) == 2  # stragglers come in ones: not at once
    world.hear(after=PAUSE)
    assert len(world.told) == 3
    assert world.forwarding.counters["frames-forwarded"] == 3


def test_the_bridge_counts_once_in_a_hold_by_an_address_of_nobodys(world: World) -> None:
    sources = set()
    for hold in (1, 2):
        world.hear(state(LOG_ALL))
        world.table(table(HERE))
        world.holding(STATION, hold=hold)
        assert world.bridge.taught == [], "the guest may be elsewhere by now"
        world.table(table(HERE))
        world.holding(STATION, hold=hold, after=0.1)
        world.table(table(HERE))
        ((in_port, frame),) = world.bridge.taught
        assert in_port == HERE and frame[:6] == GUEST
        assert frame[6] & 3 == 2, "locally administered, one station's"
        sources.add(frame[6:12])
        world.hear(HoldState(hold, False, (), {}))
    assert len(sources) == 2


def test_a_guest_that_is_sighted_elsewhere_has_its_first_frames_counted(world: World) -> None:
    world.hear(state(LOG_ALL))
    world.table(table(HERE))
    world.holding(STATION)
    world.table(table(HERE))
    assert len(world.bridge.taught) == 1
    world.hear(HoldState(1, True, (STATION,), {}, sighted=1))
    for taught in (1, 2):
        world.table(table(HERE))
        assert len(world.bridge.taught) == taught
        world.hear()
    assert world.asked() == [], "the bridge has its time"
    world.hear(after=0.01)
    world.table(table(THERE))
    assert isinstance(world.told[-1], Release)


@pytest.mark.parametrize("text", ["", table(THERE)])
def test_a_guest_that_the_bridge_has_not_here_needs_no_counting(world: World, text: str) -> None:
    world.holding(STATION)
    world.table(text)
    assert world.bridge.taught == []


def test_the_table_is_asked_for_once_at_a_time_and_nothing_spins_meanwhile(world: World) -> None:
    world.hear(state(LOG_ALL))
    assert world.asked() == ["br0"]
    world.hear(after=0.5)
    assert world.asked() == ["br0"] and world.wakes() == []
    world.table(table(HERE))
    assert world.asked() == [] and world.wakes() == []
    world.holding(STATION)
    world.table(table(HERE))
    wake = min(world.wakes())
    assert wake > world.now


def test_a_switch_that_does_not_answer_is_asked_again_later(world: World) -> None:
    world.holding(STATION)
    world.table(None)
    assert world.asked() == []
    wake = min(world.wakes())
    assert wake > world.now
    world.hear(after=wake - world.now)
    assert world.asked() == ["br0"]


def test_nothing_goes_where_the_bridge_has_not_learned(world: World) -> None:
    world.hear(state(LOG_ALL))
    world.table(table(HERE))
    world.holding(STATION)
    world.table("")
    assert world.told == []
    world.hear(HeldFrames(1, (frame(1),), False))
    assert world.bridge.sent == [] and world.forwarding.counters["frames-unasked"] == 1


def test_a_worker_gets_no_frame_to_anybody_else(world: World) -> None:
    found(world)
    stranger = bytes.fromhex("525400000077")
    world.hear(HeldFrames(1, (frame(1, stranger), frame(2), frame(3, b"\xff" * 6)), False))
    assert world.bridge.sent == [[(sent(2), THERE)]]
    assert world.forwarding.counters["frames-unfit"] == 2
    world.hear(HeldFrames(1, (frame(4),), False))  # an answer too many
    assert len(world.bridge.sent) == 1


def test_what_the_worker_was_asked_for_before_is_not_lost_when_there_is_more(world: World) -> None:
    nested = bytes.fromhex("525400000002")
    world.locate(addresses=(Station(nested),))
    found(world)
    world.holding(STATION, StationKey(nested, 0))
    world.now += 0.1
    world.hear()
    world.table(table(THERE) + table(THERE, nested).partition("\n")[2])
    assert [command.id for command in world.told] == [1, 2]
    world.hear(HeldFrames(1, (frame(1),), False), HeldFrames(2, (frame(2, nested),), False))
    world.bridge.answer = Done(1, len(world.bridge.sent[0]))
    world.hear()
    assert [p for batch in world.bridge.sent for p in batch] == [
        (sent(1), THERE),
        (sent(2, nested), THERE),
    ]


def test_addresses_that_are_found_one_by_one_are_all_asked_for(world: World) -> None:
    nested = [bytes((0x52, 0x54, 0, 0, 1, n)) for n in range(3)]
    stations = [StationKey(mac, 0) for mac in nested]
    lines = [table(HERE, mac).partition("\n")[2] for mac in nested]
    world.hear(state(LOG_ALL))
    world.table(" port\n" + "".join(lines))
    world.holding(*stations)
    for n, mac in enumerate(nested):
        lines[n] = table(THERE, mac).partition("\n")[2]
        world.table(" port\n" + "".join(lines))
        assert set(world.told[-1].stations) == set(stations[: n + 1])
        world.hear(after=0.1)
    assert [command.id for command in world.told] == [1, 2, 3]


def test_frames_wait_while_the_bridge_is_away(world: World) -> None:
    found(world)
    world.bridge.idle = False
    world.hear(HeldFrames(1, (frame(1),), False))
    assert world.bridge.sent == []
    world.bridge.idle = True
    world.hear()
    assert world.bridge.sent == [[(sent(1), THERE)]]
    world.bridge.answer = Done(1, 1, lost="gone")
    world.hear()
    assert world.forwarding.counters["frames-lost"] == 1


def test_the_end_is_logged_and_kept(world: World) -> None:
    found(world)
    counts = {"held": 5, "forwarded": 3, "dropped_group": 2}
    world.hear(HoldState(1, False, (), counts), after=1.5)
    assert world.bridge.closed and world.wakes() == []
    (entry,) = world.forwarding.log()
    assert (entry["port"], entry["counts"], entry["places"]) == (
        "vhu0",
        counts,
        {STATION.encode(): THERE},
    )
    assert entry["ended_at"] - entry["began_at"] == pytest.approx(1.501)
    (record,) = world.forwarding.history
    assert record.summary() == (
        f"held for 1.50 s: 2 dropped group, 3 forwarded, 5 held; {STATION.encode()} on port 1"
    )


def test_off_means_off(world: World) -> None:
    world.locate(settings=PortSettings(hold=False))
    world.hear(state(LOG_ALL))
    world.holding(STATION)
    assert world.asked() == [] and FakeBridge.made == []


def test_a_worker_has_so_many_holds_and_no_more(world: World) -> None:
    for hold in range(3 * HOLDS_AT_ONCE):
        world.holding(STATION, hold=hold)
        world.hear(HoldState(hold, False, (), {}))
    assert world.forwarding.counters["holds"] == HOLDS_AT_ONCE
    assert all(bridge.closed for bridge in FakeBridge.made)


@pytest.mark.parametrize("end", ["worker", "row"])
def test_a_port_that_goes_takes_its_hold_with_it(world: World, end: str) -> None:
    found(world)
    if end == "worker":
        world.forwarding.take([Ended("vhu0", "", 1.0)], world.now)
    else:
        switch = Switch("/run/ovs", "", False, frozenset())
        world.forwarding.locate(Snapshot(switch))
    assert world.bridge.closed
    world.tables.answer(table(THERE), world.now)
    world.forwarding.run(world.now)
    assert world.wakes() == []


def test_a_migration_that_is_called_off_before_the_end_leaves_nothing(world: World) -> None:
    world.hear(state(LOG_ALL))
    world.table(table(HERE))
    world.hear(state("0x0000000100000000"))
    world.holding(STATION)
    world.table(table(THERE))
    assert world.told == []  # what was known then is not known any more


@pytest.mark.parametrize("told", ["nothing", "both at once"])
def test_without_a_look_before_the_hold_only_rows_say_whose_an_address_is(
    world: World, told: str
) -> None:
    if told == "both at once":
        world.hear(state(LOG_ALL), HoldState(1, True, (STATION,), {}))
    else:
        world.holding(STATION)
    world.table(table(HERE))
    world.hear(after=0.1)
    world.table(table(THERE))
    assert world.told == []
    world.locate(attached_mac=GUEST.hex(":"))
    world.hear(after=0.1)
    world.table(table(THERE))
    assert world.told == [Release(1, (STATION,))]


def test_a_switch_that_answers_when_the_hold_has_begun_was_asked_in_time(world: World) -> None:
    world.hear(state(LOG_ALL))
    world.holding(STATION)
    world.table(table(HERE))
    world.hear(after=0.1)
    world.table(table(THERE))
    assert world.told == [Release(1, (STATION,))]


def test_what_other_ports_rows_name_is_not_forwarded_to(world: World) -> None:
    other = replace(PORT, name="vhu1", bridge="br0", ofport=THERE, attached_mac=GUEST.hex(":"))
    world.locate(others={"vhu1": other})
    found(world)
    assert world.told == []
    world.locate(others={"vhu1": other}, attached_mac=GUEST.hex(":"))
    world.hear(after=0.1)
    world.table(table(THERE))
    assert world.told[-1].stations == (STATION,), "given to both, it is both's"


def batch_of(world: World, frames: list[bytes]) -> None:
    """Hand over what was asked for, and have the bridge take it."""
    world.hear(HeldFrames(world.told[-1].id, tuple(frames), True))
    if not world.bridge.closed and world.bridge.sent:
        world.bridge.answer = Done(1, len(frames))
    world.hear()


@pytest.mark.parametrize(
    ("frames", "size", "most"),
    [(256, 60, FRAMES // 256), (5, 9014, BYTES // (5 * 9014)), (0, 0, BATCHES)],
)
def test_a_worker_that_hands_over_without_end_is_cut_off_by_name(
    world: World, frames: int, size: int, most: int
) -> None:
    found(world)
    given = [frame(1).ljust(size, b"\0")] * frames
    began, batches = world.now, 0
    while not world.bridge.closed:
        batch_of(world, given)
        batches += 1
        assert batches <= most + 1
    assert batches == most + 1 and world.now == began
    assert world.forwarding.counters["hold-over-limit"] == 1
    assert world.forwarding.counters["frames-over-limit"] == frames
    (record,) = world.forwarding.history
    assert "; hold-over-limit: more than " in record.summary()
    # neither does it begin again, nor is there more than a trickle for the next
    told = len(world.told)
    world.holding(STATION)
    world.hear(HeldFrames(told, tuple(given), True))
    assert len(world.told) == told and world.wakes() == []
    world.hear(HoldState(1, False, (), {}))
    assert len(world.forwarding.history) == 1
    world.hear(state(LOG_ALL))
    world.table(table(HERE))
    world.holding(STATION, hold=2)
    world.table(table(THERE))
    for _ in range(2):
        batch_of(world, given)
    assert world.forwarding.counters["hold-over-limit"] == 2


def test_a_hold_of_a_hundred_thousand_frames_goes_through(world: World) -> None:
    """10,000 a second, of 1,500 bytes, for the 10 s that a worker holds."""
    found(world)
    given = [frame(1).ljust(1514, b"\0")] * 32
    for _ in range(100_000 // 32):
        world.now += 0.0032
        batch_of(world, given)
    world.hear(HoldState(1, False, (), {}))
    assert world.forwarding.counters["frames-forwarded"] == 100_000
    assert world.forwarding.counters["hold-over-limit"] == 0


def test_a_hold_without_end_ends_by_the_daemons_clock(world: World) -> None:
    found(world)
    until = world.now + SECONDS
    assert any(abs(wake - until) < 0.1 for wake in world.wakes())
    world.hear(after=SECONDS)
    assert world.bridge.closed
    (record,) = world.forwarding.history
    assert record.over == "more than 12 s"
    world.holding(STATION)
    assert world.wakes() == []


def test_the_bridge_is_asked_for_so_many_migrations_and_no_more(world: World) -> None:
    for _ in range(3 * HOLDS_AT_ONCE):
        world.hear(state(LOG_ALL))
        if world.asked():
            world.table(table(HERE), after=0.0)
        world.hear(state("0x0000000100000000"))
    assert world.forwarding.counters["looks-refused"] == 2 * HOLDS_AT_ONCE


def test_what_is_refused_is_in_the_record_by_its_name(world: World) -> None:
    found(world)
    stranger = bytes.fromhex("525400000077")
    group = frame(2)[:6] + b"\xff" * 6 + frame(2)[12:]
    world.hear(
        HeldFrames(1, (frame(1, stranger), frame(1)[:6] + GUEST + frame(1)[12:], group), False)
    )
    world.hear(HoldState(1, False, (), {"held": 3}))
    (entry,) = world.forwarding.log()
    # the bridge has the guest elsewhere, where it is the same as the receiver: only rows know
    assert entry["refused"] == {"to-stranger": 1, "from-group": 1}
    assert world.forwarding.counters["frames-to-stranger"] == 1
    (record,) = world.forwarding.history
    assert "1 refused from-group" in record.summary()
