# SPDX-License-Identifier: Apache-2.0
"""QEMU: what a vhost-user NIC's front-end says, in which order, and when it announces its guest."""

import contextlib
import os
import select

import pytest

from docs.platform.qtest import (
    ADD_MEM_REG,
    CTRL_VQ,
    FEATURES,
    GET_QUEUE_NUM,
    GET_VRING_BASE,
    GUEST_ANNOUNCE,
    LOG_ALL,
    MAC,
    NEED_REPLY,
    NET_SET_MTU,
    P_MEM_SLOTS,
    P_RARP,
    PROTOCOL,
    PROTOCOL_FEATURES,
    SEND_RARP,
    SET_FEATURES,
    SET_LOG_BASE,
    SET_MEM_TABLE,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_CALL,
    SET_VRING_ENABLE,
    SET_VRING_KICK,
    STATUS,
    BackEnd,
    Qemu,
)
from ovs_vhost_plugin.lab.hosts.namespace import scratch_directory
from ovs_vhost_plugin.lab.process import wait_until

STEPS = {"initial": 50, "max": 550, "step": 100}


@pytest.fixture
def site():
    """Makes QEMUs and back-ends; they and their files go with the test."""
    with contextlib.ExitStack() as stack:
        directory = scratch_directory()

        def make(name="nic", *, machine=None, attend=True, **backend):
            path = directory / name
            back_end = BackEnd(path, **backend)
            stack.callback(back_end.close)
            qemu = Qemu(directory, path, **(machine or {}))
            stack.callback(qemu.close)
            if attend:
                qemu.attend()
            return qemu, back_end

        yield make
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def started(back_end, rings=2):
    """Wait for the rings to run; the last thing that is said of one is where to call."""
    wait_until(
        lambda: (
            len(back_end.of(SET_VRING_KICK)) >= rings
            and back_end.said[-1].request == SET_VRING_CALL
            and back_end.said[-1].index == rings - 1
        ),
        "the rings' start",
    )


def announce(qemu, rounds=1):
    qemu.qmp.command("announce-self", rounds=rounds, **STEPS)


# -- the beginning --------------------------------------------------------------------------------


def test_qemu_connects_long_before_there_is_a_driver(site):
    """So a connection says nothing of a guest that runs."""
    qemu, back_end = site()
    wait_until(lambda: back_end.of(SET_VRING_ENABLE), "its handshake")
    qemu.offered()
    assert not back_end.of(SET_FEATURES, SET_MEM_TABLE, SET_VRING_KICK)


def test_rings_are_enabled_before_protocol_features_are_acknowledged(site):
    """Though SET_VRING_ENABLE "should be sent only when negotiated"."""
    qemu, back_end = site()
    wait_until(lambda: back_end.of(SET_VRING_ENABLE), "its handshake")
    qemu.offered()
    qemu.start_driver()
    started(back_end)
    kinds = [said.request for said in back_end.of(SET_VRING_ENABLE, SET_FEATURES, SET_VRING_KICK)]
    assert kinds[0] == SET_VRING_ENABLE
    assert kinds.index(SET_FEATURES) < kinds.index(SET_VRING_KICK)
    assert back_end.of(SET_FEATURES)[0].u64 & PROTOCOL_FEATURES


def test_a_driver_is_offered_guest_announce_only_where_the_back_end_has_it(site):
    with_it, _ = site("with")
    without, _ = site("without", features=FEATURES & ~GUEST_ANNOUNCE)
    assert with_it.offered() & GUEST_ANNOUNCE
    assert not without.offered() & GUEST_ANNOUNCE


def test_queue_pairs_are_counted_and_not_rings(site):
    """Two pairs of a back-end that says 2 will do; more is QEMU's to give up."""
    _, back_end = site(machine={"netdev": ",queues=2", "device": ",mq=on"}, pairs=2)
    wait_until(lambda: len(back_end.of(SET_VRING_ENABLE)) >= 4, "all four rings")


def test_a_qemu_that_wants_more_pairs_than_there_are_hangs_up_and_says_so_only_itself(site):
    machine = {"netdev": ",queues=2", "device": ",mq=on"}
    qemu, back_end = site(machine=machine, pairs=1, attend=False)
    wait_until(lambda: back_end.of(GET_QUEUE_NUM, connection=1), "its next attempt, and at once")
    assert "more queues than supported: 1" in qemu.process.output.read_text()


def test_protocol_features_are_said_again_for_each_queue_pair(site):
    _, back_end = site(machine={"netdev": ",queues=2", "device": ",mq=on"})
    wait_until(lambda: len(back_end.of(SET_VRING_ENABLE)) >= 4, "its handshake")
    assert len({said.u64 for said in back_end.of(SET_PROTOCOL_FEATURES)}) == 1
    assert len(back_end.of(SET_PROTOCOL_FEATURES)) == 2


def test_the_mtu_is_said_before_the_driver_s_features(site):
    qemu, back_end = site(machine={"device": ",host_mtu=1400"})
    qemu.offered()
    qemu.start_driver(features=1 << 3)  # VIRTIO_NET_F_MTU
    started(back_end)
    (mtu,) = {said.u64 for said in back_end.of(NET_SET_MTU)}
    kinds = [said.request for said in back_end.of(NET_SET_MTU, SET_FEATURES)]
    assert (mtu, kinds[0]) == (1400, NET_SET_MTU)


# -- rings ----------------------------------------------------------------------------------------


def test_each_ring_is_kicked_when_it_starts(site):
    """Also one that its driver has never used: so one kick alone says nothing of a guest."""
    qemu, back_end = site()
    qemu.offered()
    qemu.start_driver()
    started(back_end)
    for said in back_end.of(SET_VRING_KICK):
        poll = select.poll()
        poll.register(said.fds[0], select.POLLIN)
        assert poll.poll(60_000), f"ring {said.index}"
        os.eventfd_read(said.fds[0])
        assert not poll.poll(0)


def test_a_ring_is_told_where_to_call_when_it_has_its_kick_already(site):
    """What it gave back in between has called an eventfd that nobody looks at."""
    qemu, back_end = site()
    qemu.offered()
    qemu.start_driver()
    started(back_end)
    kinds = [
        said.request for said in back_end.said if said.request in (SET_VRING_KICK, SET_VRING_CALL)
    ]
    first = kinds.index(SET_VRING_KICK)
    assert SET_VRING_CALL in kinds[:first], "an eventfd for nobody"
    assert kinds[first + 1] == SET_VRING_CALL


def test_memory_without_a_file_is_not_sent_and_rings_start_all_the_same(site):
    """With CONFIGURE_MEM_SLOTS; without, QEMU says on its own stderr that it serves the NIC."""
    machine = {"memory": "memory-backend-ram"}
    qemu, back_end = site(machine=machine, protocol=PROTOCOL | P_MEM_SLOTS)
    qemu.offered()
    qemu.start_driver()
    started(back_end)
    assert not back_end.of(SET_MEM_TABLE, ADD_MEM_REG)


def test_a_stop_asks_where_each_ring_is_and_going_on_says_it_again(site):
    qemu, back_end = site()
    qemu.offered()
    qemu.start_driver()
    started(back_end)
    back_end.base = 5
    qemu.use(0, 5)
    qemu.use(1, 5)
    qemu.qmp.command("stop")
    assert [said.index for said in back_end.of(GET_VRING_BASE)] == [0, 1]
    qemu.qmp.command("cont")
    started(back_end, 2)
    bases = [(said.index, said.state) for said in back_end.of(SET_VRING_BASE)]
    assert bases == [(0, 0), (1, 0), (0, 5), (1, 5)]
    assert not any(said.u64 & LOG_ALL for said in back_end.of(SET_FEATURES))


def test_a_back_end_that_died_is_connected_again_and_goes_on_at_the_used_index(site):
    """QEMU tries every second; reconnect=1 is the least that it takes."""
    qemu, back_end = site()
    qemu.offered()
    qemu.start_driver()
    started(back_end)
    qemu.use(0, 7)
    qemu.use(1, 9)
    back_end.hang_up()
    wait_until(
        lambda: len(back_end.of(SET_VRING_KICK, connection=1)) == 2, "the next connection's rings"
    )
    bases = [(said.index, said.state) for said in back_end.of(SET_VRING_BASE, connection=1)]
    assert bases == [(0, 7), (1, 9)]


# -- announcements --------------------------------------------------------------------------------


def test_announce_self_sends_one_send_rarp_a_round_whether_or_not_there_is_a_driver(site):
    """The first six bytes are the MAC, as it lies in memory, and no answer is wanted."""
    qemu, back_end = site()
    announce(qemu, rounds=3)
    wait_until(lambda: len(back_end.of(SEND_RARP)) == 3, "three of them")
    for said in back_end.of(SEND_RARP):
        assert said.payload == bytes.fromhex(MAC.replace(":", "")) + bytes(2)
        assert not said.flags & NEED_REPLY


def test_qemu_s_rounds_are_five_in_steps_of_50_and_100_ms(site):
    qemu, _ = site()
    said = qemu.qmp.command("query-migrate-parameters")
    names = ("announce-rounds", "announce-initial", "announce-step", "announce-max")
    assert [said[name] for name in names] == [5, 50, 100, 550]


def test_a_guest_that_announces_itself_is_asked_to_and_no_send_rarp_comes(site):
    qemu, back_end = site()
    qemu.offered()
    qemu.start_driver(features=GUEST_ANNOUNCE | CTRL_VQ | STATUS, queues=3)
    started(back_end)
    assert not qemu.announces()
    announce(qemu)
    wait_until(qemu.announces, "the question to the driver")
    qemu.qmp.command("stop")  # what would have been said before is here
    assert back_end.of(GET_VRING_BASE) and not back_end.of(SEND_RARP)


def test_without_the_protocol_feature_nobody_announces(site):
    qemu, back_end = site(protocol=PROTOCOL & ~P_RARP)
    qemu.offered()
    qemu.start_driver()
    started(back_end)
    announce(qemu)
    qemu.qmp.command("stop")
    assert back_end.of(GET_VRING_BASE) and not back_end.of(SEND_RARP)


# -- migration ------------------------------------------------------------------------------------


@pytest.fixture
def migration(site, tmp_path):
    """A migration that has come to its end: the back-ends of source and destination."""
    source, old = site("source")
    uri = f"unix:{source.migrate_path}"
    _, new = site("target", machine={"extra": ["-incoming", uri]})
    source.offered()
    source.start_driver()
    started(old)
    old.base = 5
    for queue in range(2):
        source.use(queue, 5)
    source.qmp.command("migrate", uri=uri)
    wait_until(lambda: source.qmp.command("query-migrate").get("status") == "completed", "its end")
    wait_until(lambda: len(new.of(SET_VRING_KICK)) == 2, "the rings at the destination")
    return old, new


def test_a_migration_logs_first_and_stops_the_rings_while_it_logs(migration):
    """So GET_VRING_BASE under LOG_ALL is a guest that leaves; nothing is written after it."""
    old, _ = migration
    kinds = (SET_LOG_BASE, SET_FEATURES, GET_VRING_BASE)
    said = [
        (one.request, one.request == SET_FEATURES and bool(one.u64 & LOG_ALL))
        for one in old.of(*kinds)
    ]
    begin = said.index((SET_LOG_BASE, False))
    assert said[begin : begin + 4] == [
        (SET_LOG_BASE, False),
        (SET_FEATURES, True),
        (GET_VRING_BASE, False),
        (GET_VRING_BASE, False),
    ]
    logged = [one for one in old.of(SET_VRING_ADDR) if one.state & 1]  # VHOST_VRING_F_LOG
    assert [one.index for one in logged] == [0, 1]
    assert len(old.of(SET_LOG_BASE)[0].fds) == 1


def test_the_destination_goes_on_where_the_source_s_back_end_said(migration):
    _, new = migration
    bases = [(said.index, said.state) for said in new.of(SET_VRING_BASE)]
    assert bases == [(0, 5), (1, 5)]


def test_the_destination_is_announced_before_its_rings_start_and_five_times(migration):
    old, new = migration
    kinds = [said.request for said in new.of(SEND_RARP, SET_VRING_KICK)]
    assert kinds[0] == SEND_RARP
    wait_until(lambda: len(new.of(SEND_RARP)) == 5, "five rounds")
    assert not old.of(SEND_RARP)


def test_the_destination_logs_nothing(migration):
    _, new = migration
    assert not any(said.u64 & LOG_ALL for said in new.of(SET_FEATURES))
