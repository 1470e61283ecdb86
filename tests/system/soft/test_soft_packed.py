# SPDX-License-Identifier: Apache-2.0
"""Packed rings through a real worker: contents compared, faults named, nothing unlogged."""

import os
import signal

import pytest
from support.system.soft_ports import (
    check_inward,
    check_outward,
    frame_of,
    receive,
    settle,
)

from ovs_vhost_plugin.guest.driver.memory import PAGE_SIZE
from ovs_vhost_plugin.guest.driver.packed import F_AVAIL, F_USED, PACKED_DESCRIPTOR
from ovs_vhost_plugin.guest.driver.split import F_NEXT
from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import packed_base
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = pytest.mark.system

PACKED = FEATURES | Feature.RING_PACKED.mask
IN_ORDER = Feature.IN_ORDER.mask
EVENTS, MERGEABLE = Feature.RING_EVENT_IDX.mask, Feature.MRG_RXBUF.mask
USUAL = range(14, 1515)
SOME = range(60, 1515, 29)
LARGE = (*SOME, 2048, 9014, 30_000)
RX, TX = 0, 1


def check_both_ways(port, config, sizes, pieces=None, burst=32):
    guest = port.guest(config)
    check_outward(port, guest, sizes, pieces)
    check_inward(port, guest, sizes, burst)
    assert port.errors() == {}
    bases = [vring.queue.base for vring in guest.vrings]
    assert guest.stop_rings() == bases
    return guest


@pytest.mark.parametrize(
    "features",
    [PACKED, PACKED & ~EVENTS, PACKED & ~MERGEABLE, PACKED | IN_ORDER, FEATURES | IN_ORDER],
    ids=["usual", "flags", "not-mergeable", "in-order", "split-in-order"],
)
def test_every_length_of_an_ordinary_frame(port, features):
    check_both_ways(port, Config(features=features), USUAL)


@pytest.mark.parametrize("pieces", [[5, 3, 2], [12, 50, 200], None], ids=str)
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_frames_cut_into_descriptors_of_any_length(port, pieces, indirect):
    longest = LARGE[-1] if pieces is None else sum(pieces) + 60 * pieces[-1]
    sizes = [size for size in LARGE if size <= longest]
    config = Config(features=PACKED, indirect=indirect, receive_pieces=[1, 11, 1, 700])
    check_both_ways(port, config, sizes, pieces, burst=2)


@pytest.mark.parametrize(("size", "first"), [(3, 4), (100, 0), (257, 513), (1000, 1999)])
def test_rings_of_any_size_from_any_position(port, size, first):
    features = PACKED | IN_ORDER if size == 257 else PACKED
    check_both_ways(port, Config(features=features, size=size, first_index=first), SOME, burst=3)


def wrong_wrap_counter(vring, write):
    write(vring, 0, F_AVAIL | F_USED)


def id_out_of_range(vring, write):
    write(vring, vring.queue.size, F_AVAIL)


def next_not_available(vring, write):
    write(vring, 0, F_AVAIL | F_NEXT)


ATTACKS = {
    wrong_wrap_counter: "wrap-counter-wrong",
    id_out_of_range: "id-out-of-range",
    next_not_available: "next-not-available",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_ring_that_is_wrong_stops_by_name(port, attack):
    guest = port.guest(Config(features=PACKED, size=8))

    def write(vring, buffer_id, flags):
        """A descriptor as no driver writes it, where the next one is awaited."""
        buffer = guest.memory.allocate(4096)
        at = vring.queue.desc_address
        guest.memory.write(at, PACKED_DESCRIPTOR.pack(buffer, 64, buffer_id, flags))
        vring.kick.signal()

    vring = guest.vrings[TX]
    attack(vring, write)
    name = ATTACKS[attack]
    port.wait_published(f"{name}: vring 1 stopped")
    assert port.errors() == {name: 1}
    check_inward(port, guest, range(60, 1500, 100), burst=4)
    assert guest.frontend.stop_vring(TX) == packed_base.encode(0, 8)
    guest.close()
    check_outward(port, port.guest(Config(features=PACKED)), [100])


def test_a_driver_that_knows_its_ring_goes_on_after_its_worker_was_killed(port):
    guest = check_running(port, Config(features=PACKED, size=64))
    killed = port.pid
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: another(port, killed), "another worker")
    port.host.wait_status(port.name, "listening")
    guest.start()
    settle(guest)
    port.wait_carrier()
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)
    assert port.errors() == {}


def another(port, killed):
    try:
        return port.pid != killed
    except (FileNotFoundError, IndexError):
        return False


def check_running(port, config):
    guest = port.guest(config)
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)
    return guest


def test_a_driver_that_does_not_know_its_ring_has_it_go_on_where_it_stood(port):
    """As QEMU: it learns where a packed ring stands by GET_VRING_BASE, and nobody answered that."""
    guest = port.guest(Config(features=PACKED, size=64))
    old = [vring.queue.base for vring in guest.vrings]
    check_outward(port, guest, [100] * 10)
    guest.frontend.close()
    guest.frontend = guest.connect()
    guest.run_on(guest.frontend, old)
    settle(guest)
    port.wait_carrier()
    check_outward(port, guest, SOME)
    check_inward(port, guest, SOME)
    assert port.errors() == {}


def test_a_front_end_that_was_told_its_base_and_says_an_older_one_gets_its_ring_refused(port):
    guest = port.guest(Config(features=PACKED, size=64))
    old = [vring.queue.base for vring in guest.vrings]
    check_outward(port, guest, [100] * 10)
    guest.stop_rings()
    guest.frontend.close()
    guest.frontend = guest.connect()
    guest.run_on(guest.frontend, old)
    wait_until(lambda: port.errors().get("base-stale"), "the fault")
    port.wait_published("base-stale: vring 1 stopped")
    port.wait_carrier()
    check_inward(port, guest, SOME)
    # A driver that begins anew has a ring that begins anew.
    guest.close()
    check_running(port, Config(features=PACKED))


@pytest.mark.parametrize("features", [PACKED, PACKED | IN_ORDER], ids=["usual", "in-order"])
def test_descriptors_that_only_the_device_writes_meanwhile_are_logged(port, features):
    """The driver has put everything into the ring before: what changes now, the worker wrote."""
    guest = port.guest(Config(features=features, size=700, first_index=1390))
    tx = guest.vrings[TX]
    base = guest.frontend.stop_vring(TX)
    frames = [frame_of(100 + n, outward=True) for n in range(300)]
    for frame in frames:
        guest.pairs[0].tx.add(frame)
    tx.queue.publish()
    log = DirtyBitmap(guest.memory)
    guest.frontend.start_logging(log, guest.vrings)
    settle(guest)
    log.harvest()
    guest.memory.written.clear()
    before = guest.memory.snapshot()
    with port.capture() as capture:
        guest.frontend.start_vring(tx, base)
        tx.kick.signal()
        assert port.sent(capture, len(frames)) == frames
        port.inject(*[frame_of(1000) for _ in range(40)])
        wait_until(lambda: port.counters()["rx_packets"] == 40, "the frames")
    guest.stop_rings()
    assert guest.memory.written == set()
    after, logged = guest.memory.snapshot(), log.logged()
    changed = {page for page, content in before.items() if after[page] != content}
    rings = {vring.queue.desc_address // PAGE_SIZE + n for vring in guest.vrings for n in range(3)}
    assert len(changed & rings) >= 2
    assert changed <= logged
    areas = {vring.queue.used_address // PAGE_SIZE for vring in guest.vrings}
    assert logged - changed <= areas
    assert len(receive(guest, 40)) == 40
    log.close()
