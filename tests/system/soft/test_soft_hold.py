# SPDX-License-Identifier: Apache-2.0
"""What a worker does with frames that come while its guest's rings do not run.

The software guest sends what QEMU 7.2 does: LOG_ALL, then GET_VRING_BASE ring by ring (no
SET_VRING_ENABLE, no SET_FEATURES before it); on the destination SEND_RARP before the rings.
"""

import pytest
from support.system.soft_ports import GUEST_MAC, SECONDS, frame_of, receive_all, settle

from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

OTHER_GROUP = b"\xff" * 6


@pytest.fixture
def guest(port):
    return port.guest(Config(mac=GUEST_MAC))


def leave(guest):
    """Stop the rings as at the end of a migration."""
    guest.frontend.start_logging(DirtyBitmap(guest.memory), guest.vrings)
    return guest.stop_rings()


def return_home(guest, bases):
    """Start the rings again where they were: the migration has failed."""
    guest.frontend.stop_logging(guest.vrings)
    guest.run_on(guest.frontend, bases)


def held(port):
    return port.stats()["hold"]


def told_no_hold(port):
    """Whether the daemon has told the worker; what it asks it next, it answers after that."""
    lines = port.host.log.read_text().splitlines()
    return any(f" {port.name}: " in line and "hold False" in line for line in lines) and held(port)


def frames_to(guest, count):
    return [data for _, received in receive_all(guest, count) for data in [received.frame]]


def test_a_guest_whose_migration_fails_has_lost_nothing_and_in_order(port, guest):
    bases = leave(guest)
    sent = [frame_of(60 + 14 * n) for n in range(60)]
    sent[7] = OTHER_GROUP + sent[7][6:]
    port.inject(*sent)
    wait_until(lambda: held(port).get("held", 0) == len(sent), "all are held")
    assert port.carrier
    return_home(guest, bases)
    newer = [frame_of(80) for _ in range(5)]
    port.inject(*newer)
    assert frames_to(guest, 65) == sent + newer
    assert held(port)["returned"] == len(sent) and held(port)["waiting"] == 0


def test_a_guest_that_was_only_paused_gets_nothing_old(port, guest):
    bases = guest.stop_rings()
    wait_until(lambda: not port.carrier, "no carrier")
    port.inject(frame_of(60), frame_of(61))
    guest.run_on(guest.frontend, bases)
    port.wait_carrier()
    now = frame_of(100)
    port.inject(now)
    assert frames_to(guest, 1) == [now]
    assert held(port) == {"waiting": 0}


def test_another_front_ends_guest_gets_nothing_that_was_held(port, guest):
    leave(guest)
    port.inject(frame_of(60), frame_of(61))
    wait_until(lambda: held(port).get("held") == 2, "held")
    guest.frontend.close()
    wait_until(lambda: port.stats()["status"] == "listening", "the front-end is gone")
    assert port.carrier  # what was held may still be forwarded
    port.inject(frame_of(62))
    wait_until(lambda: held(port).get("held") == 3, "held as well")
    other = port.guest(Config(mac=GUEST_MAC))
    now = frame_of(100)
    port.inject(now)
    assert frames_to(other, 1) == [now]
    assert held(port)["dropped_other-guest"] == 3


def test_switched_off_nothing_is_held(port, guest):
    row = ("Interface", port.name, "external_ids:vhost-user-announce=hold=off")
    port.host.switch.vsctl("set", *row)
    wait_until(lambda: told_no_hold(port), "the worker is told")
    bases = leave(guest)
    wait_until(lambda: not port.carrier, "no carrier")
    return_home(guest, bases)
    assert held(port) == {"waiting": 0}


def test_a_hold_that_is_switched_off_ends(port, guest):
    leave(guest)
    port.inject(frame_of(60))
    wait_until(lambda: held(port).get("held") == 1, "held")
    row = ("Interface", port.name, "external_ids:vhost-user-announce=hold=off")
    port.host.switch.vsctl("set", *row)
    wait_until(lambda: not port.carrier, "no carrier")
    assert held(port)["dropped_off"] == 1


def test_a_hold_ends_in_time_and_says_so(port, guest):
    bases = leave(guest)
    port.inject(frame_of(60), OTHER_GROUP + frame_of(60)[6:])
    wait_until(lambda: not port.carrier, "no carrier")
    assert (held(port)["dropped_expired"], held(port)["dropped_group"]) == (1, 1)
    wait_until(lambda: f"{port.name}: held for " in port.host.log.read_text(), "the daemon's word")
    log = port.host.appctl("vhost/hold-log", port.name)
    assert "group 1" in log and "expired 1" in log
    return_home(guest, bases)
    now = frame_of(100)
    port.wait_carrier()
    port.inject(now)
    assert frames_to(guest, 1) == [now]


def moving_in(port):
    """A guest as on the destination: connected, its rings not yet set up."""
    guest = SoftGuest(port.path, Config(mac=GUEST_MAC))
    guest.frontend = guest.connect()
    settle(guest)
    return guest


def test_frames_that_come_after_the_announcement_wait_for_the_ring(port):
    guest = moving_in(port)
    assert not port.carrier
    port.inject(frame_of(60))  # too early to be its
    guest.frontend.send_rarp(GUEST_MAC)
    settle(guest)
    port.wait_carrier()
    early = [frame_of(70 + n) for n in range(40)]
    port.inject(*early)
    guest.run_on(guest.frontend, [0, 0])
    late = frame_of(200)
    port.inject(late)
    assert frames_to(guest, 41) == [*early, late]
    guest.close()


def test_a_guest_that_does_not_come_leaves_nothing_for_the_next(port):
    guest = moving_in(port)
    guest.frontend.send_rarp(GUEST_MAC)
    settle(guest)
    port.wait_carrier()
    port.inject(frame_of(60))
    wait_until(lambda: not port.carrier, "it is expected no more", SECONDS)
    guest.run_on(guest.frontend, [0, 0])
    port.wait_carrier()
    now = frame_of(100)
    port.inject(now)
    assert frames_to(guest, 1) == [now]
    guest.close()


def test_without_the_daemon_frames_are_held_and_given_back_all_the_same(port, guest):
    port.host.stop_daemon(kill=True)
    try:
        bases = leave(guest)
        sent = [frame_of(60) for _ in range(8)]
        port.inject(*sent)
        return_home(guest, bases)
        newer = frame_of(90)
        port.inject(newer)
        assert frames_to(guest, 9) == [*sent, newer]
    finally:
        port.host.start_daemon()
        port.host.wait_status(port.name, "running")
