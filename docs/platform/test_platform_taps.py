# SPDX-License-Identifier: Apache-2.0
"""Linux: taps, their queues, carrier, owner and namespace."""

import contextlib
import errno
import os
import select
import socket
import struct

import pytest
from pyroute2 import IPRoute, NetlinkError

from docs.platform.kit import (
    BROADCAST,
    CLONE_NEWNET,
    GUEST_MAC,
    IFF_MULTI_QUEUE,
    IFF_NO_CARRIER,
    IFF_TUN_EXCL,
    IFF_VNET_HDR,
    NOBODY,
    TUNSETCARRIER,
    TUNSETOWNER,
    TUNSETVNETHDRSZ,
    Tap,
    Wire,
    become,
    call,
    child,
    frame,
    has_carrier,
    net_header,
    number_of,
    read_sysctl,
    takes_frames,
    up,
    write_sysctl,
)
from ovs_vhost_plugin.lab.process import wait_until

TXQUEUELEN = 1000


def numbers(tap):
    return [number_of(data) for data in tap.frames()]


def dropped(namespace, name):
    words = namespace.run("cat", "/proc/net/dev").split(f"{name}:")[1].split()
    return int(words[11])  # transmit, drop


@pytest.fixture
def tap(namespace):
    made = Tap("tap0")
    up(namespace, "tap0")
    yield made
    made.close()


@pytest.fixture
def wire(tap):
    made = Wire("tap0")
    yield made
    made.close()


# -- what waits in a tap --------------------------------------------------------------------------


def test_a_tap_keeps_frames_that_nobody_reads(tap, wire, namespace):
    for number in range(TXQUEUELEN + 10):
        wire.send(frame(number))
    assert numbers(tap) == list(range(TXQUEUELEN))
    assert dropped(namespace, "tap0") == 10


def test_a_tap_without_carrier_takes_no_frames(tap, wire):
    tap.point(TUNSETCARRIER, 0)
    wait_until(lambda: not takes_frames("tap0"), "the kernel's own notice of it")
    wire.send(frame())
    assert tap.frames() == []


def test_frames_outlive_the_carrier(tap, wire):
    wire.send(frame(7))
    tap.point(TUNSETCARRIER, 0)
    wait_until(lambda: not takes_frames("tap0"), "the kernel's own notice of it")
    assert numbers(tap) == [7]


def test_a_persistent_tap_loses_its_frames_with_its_last_queue(namespace):
    """So a guest never gets what came for the one before, unless somebody holds the queue."""
    tap = Tap("tap0").persist()
    up(namespace, "tap0")
    wire = Wire("tap0")
    wire.send(frame(1))
    tap.close()
    again = Tap("tap0")
    assert again.frames() == []
    again.close()
    wire.close()


def test_a_read_that_is_too_short_loses_the_rest_of_the_frame(tap, wire):
    wire.send(frame(1, length=200))
    wire.send(frame(2, length=200))
    assert [len(data) for data in tap.frames(64)] == [64, 64]


def test_a_read_scatters_a_frame_over_its_buffers(tap, wire):
    sent = frame(1, length=200)
    wire.send(sent)
    buffers = [bytearray(50), bytearray(100), bytearray(100)]
    assert os.readv(tap.fd, buffers) == 200
    assert b"".join(buffers)[:200] == sent


# -- carrier --------------------------------------------------------------------------------------


def test_the_first_queue_puts_the_carrier_up_unless_told_not_to(namespace):
    Tap("tap0", IFF_MULTI_QUEUE | IFF_NO_CARRIER).persist().close()
    up(namespace, "tap0")
    quiet = Tap("tap0", IFF_MULTI_QUEUE | IFF_NO_CARRIER)
    second = Tap("tap0", IFF_MULTI_QUEUE)
    assert not has_carrier("tap0")
    quiet.close()
    second.close()
    loud = Tap("tap0", IFF_MULTI_QUEUE)
    assert has_carrier("tap0")
    loud.close()


def test_the_carrier_goes_with_the_last_queue(namespace):
    tap = Tap("tap0").persist()
    up(namespace, "tap0")
    assert has_carrier("tap0")
    tap.close()
    assert not has_carrier("tap0")


def test_the_carrier_needs_no_privilege_once_the_queue_is_open(tap):
    def put_down():
        become(NOBODY)
        tap.point(TUNSETCARRIER, 0)

    assert child(put_down) == 0
    assert not has_carrier("tap0")


def test_a_guest_may_send_while_the_carrier_is_down(tap, wire):
    tap.point(TUNSETCARRIER, 0)
    wait_until(lambda: not takes_frames("tap0"), "the kernel's own notice of it")
    tap.send(frame(3))
    assert [number_of(data) for data in wait_until(wire.frames, "the frame")] == [3]


def test_a_tap_without_carrier_polls_writable_and_not_readable(tap):
    tap.point(TUNSETCARRIER, 0)
    assert not has_carrier("tap0")
    poll = select.poll()
    poll.register(tap.fd, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(tap.fd, select.POLLOUT)]


def test_a_tap_that_is_set_down_refuses_what_is_written(tap, namespace):
    namespace.run("ip", "link", "set", "tap0", "down")
    with pytest.raises(OSError) as caught:
        tap.send(frame())
    assert caught.value.errno == errno.EIO


# -- queues ---------------------------------------------------------------------------------------


def test_frames_come_only_to_attached_queues(namespace):
    queues = [Tap("tap0", IFF_MULTI_QUEUE) for _ in range(3)]
    up(namespace, "tap0")
    queues[1].attach(False)
    queues[2].attach(False)
    wire = Wire("tap0")
    for number in range(64):
        wire.send(frame(number, source=bytes([2, 0, 0, 0, 0, number])))
    assert numbers(queues[0]) == list(range(64))
    assert numbers(queues[1]) == numbers(queues[2]) == []
    for queue in (*queues, wire):
        queue.close()


def test_a_tap_without_an_attached_queue_drops_frames_and_keeps_its_carrier(namespace):
    tap = Tap("tap0", IFF_MULTI_QUEUE)
    up(namespace, "tap0")
    tap.attach(False)
    wire = Wire("tap0")
    wire.send(frame(1))
    tap.attach(True)
    wire.send(frame(2))
    assert numbers(tap) == [2]
    assert has_carrier("tap0")
    tap.close()
    wire.close()


def test_a_queue_that_is_detached_loses_what_it_held(namespace):
    queues = [Tap("tap0", IFF_MULTI_QUEUE) for _ in range(2)]
    up(namespace, "tap0")
    wire = Wire("tap0")
    queues[0].attach(False)  # so that all goes to the other
    wire.send(frame(1))
    queues[0].attach(True)
    queues[1].attach(False)
    queues[1].attach(True)
    assert numbers(queues[1]) == []
    for queue in (*queues, wire):
        queue.close()


def test_the_size_of_the_virtio_net_header_is_the_tap_s(namespace):
    queues = [Tap("tap0", IFF_MULTI_QUEUE | IFF_VNET_HDR) for _ in range(2)]
    up(namespace, "tap0")
    queues[0].point(TUNSETVNETHDRSZ, 12)
    wire = Wire("tap0")
    queues[1].send(net_header(size=12) + frame(5))
    assert [number_of(data) for data in wait_until(wire.frames, "the frame")] == [5]
    for queue in (*queues, wire):
        queue.close()


def test_rtnetlink_counts_the_queues_that_are_open(namespace):
    queues = [Tap("tap0", IFF_MULTI_QUEUE) for _ in range(3)]
    queues[2].attach(False)
    with IPRoute() as links:
        (link,) = links.get_links(socket.if_nametoindex("tap0"))
    tun = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    assert tun.get_attr("IFLA_TUN_NUM_QUEUES") == 2
    assert tun.get_attr("IFLA_TUN_NUM_DISABLED_QUEUES") == 1
    for queue in queues:
        queue.close()


# -- its life -------------------------------------------------------------------------------------


def test_a_persistent_tap_outlives_its_queues_with_its_ifindex(namespace):
    tap = Tap("tap0").persist()
    index = socket.if_nametoindex("tap0")
    tap.close()
    assert socket.if_nametoindex("tap0") == index
    again = Tap("tap0")
    assert socket.if_nametoindex("tap0") == index
    again.close()


def test_another_tap_goes_with_its_last_queue(namespace):
    Tap("tap0").close()
    with pytest.raises(OSError):
        socket.if_nametoindex("tap0")


def test_a_new_tap_by_the_same_name_has_another_ifindex(namespace):
    tap = Tap("tap0")
    index = socket.if_nametoindex("tap0")
    tap.close()
    again = Tap("tap0")
    assert socket.if_nametoindex("tap0") != index
    again.close()


def test_a_tap_that_must_be_new_is_refused_where_the_name_is_taken(namespace):
    namespace.tap("tap0")
    with pytest.raises(OSError) as caught:
        Tap("tap0", IFF_TUN_EXCL)
    assert caught.value.errno == errno.EBUSY


def test_a_tap_is_removed_whoever_has_it_open(tap, namespace):
    namespace.run("ip", "link", "del", "tap0")
    for use in (lambda: tap.send(frame()), lambda: os.read(tap.fd, 100)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EBADFD
    poll = select.poll()
    poll.register(tap.fd, 0)
    assert poll.poll(0) == [(tap.fd, select.POLLERR)]


# -- owner and namespace --------------------------------------------------------------------------


def attach_as_nobody():
    become(NOBODY)
    Tap("tap0", IFF_MULTI_QUEUE)


def test_a_tap_is_anybody_s_until_it_has_an_owner(namespace):
    tap = Tap("tap0", IFF_MULTI_QUEUE)
    before = child(attach_as_nobody)
    tap.set(TUNSETOWNER, 0)
    assert (before, child(attach_as_nobody)) == (0, errno.EPERM)
    tap.close()


def test_who_is_attached_already_stays_when_a_tap_gets_an_owner(namespace):
    tap = Tap("tap0", IFF_MULTI_QUEUE)
    up(namespace, "tap0")
    wire = Wire("tap0")

    def give_and_send():
        become(NOBODY)
        stranger = Tap("tap0", IFF_MULTI_QUEUE)
        os.write(ready[1], b"1")
        os.read(given[0], 1)
        stranger.send(frame(9))

    ready, given = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            give_and_send()
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    tap.set(TUNSETOWNER, 0)
    os.write(given[1], b"1")
    os.waitpid(pid, 0)
    assert [number_of(data) for data in wait_until(wire.frames, "the stranger's frame")] == [9]
    for fd in (*ready, *given):
        os.close(fd)
    wire.close()
    tap.close()


def test_a_namespace_lives_by_a_descriptor_and_takes_along_what_is_in_it(namespace):
    """A daemon that is killed leaves no tap half made. Here an end of a cable is what goes."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    call("unshare", CLONE_NEWNET)
    place = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    call("setns", home, CLONE_NEWNET)
    with IPRoute() as links:
        links.link("add", ifname="here", kind="veth", peer={"ifname": "there", "net_ns_fd": place})
        assert links.link_lookup(ifname="here")
        os.close(place)
        wait_until(lambda: not links.link_lookup(ifname="here"), "the namespace's end")
    os.close(home)


def test_a_tap_that_moves_keeps_owner_and_carrier_and_gets_new_settings(namespace):
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    usual = read_sysctl("net/ipv4/conf/default/arp_ignore")
    call("unshare", CLONE_NEWNET)
    try:
        tap = Tap("tap0", IFF_MULTI_QUEUE | IFF_NO_CARRIER)
        tap.set(TUNSETOWNER, NOBODY)
        write_sysctl("net/ipv4/conf/tap0/arp_ignore", "8")
        with IPRoute() as links:
            index = socket.if_nametoindex("tap0")
            links.link("set", index=index, state="up")
            links.link("set", index=index, net_ns_fd=home)
    finally:
        call("setns", home, CLONE_NEWNET)
        os.close(home)
    shown = namespace.run("ip", "-d", "link", "show", "tap0")
    assert " user nobody " in shown and ",UP" not in shown
    assert read_sysctl("net/ipv4/conf/tap0/arp_ignore") == usual
    up(namespace, "tap0")
    assert not has_carrier("tap0")
    tap.close()


def test_a_tap_does_not_move_to_where_its_name_is_taken(namespace):
    namespace.tap("tap0")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    call("unshare", CLONE_NEWNET)
    try:
        tap = Tap("tap0")
        with IPRoute() as links, pytest.raises(NetlinkError) as caught:
            links.link("set", index=socket.if_nametoindex("tap0"), net_ns_fd=home)
    finally:
        call("setns", home, CLONE_NEWNET)
        os.close(home)
    assert caught.value.code == errno.EEXIST
    tap.close()


# -- what the host's own stack hears of a tap that a userspace bridge reads -----------------------


def arp_request(address):
    """Who has `address`?, asked by the guest."""
    head = struct.pack("!6s6sHHHBBH", BROADCAST, GUEST_MAC, 0x0806, 1, 0x0800, 6, 4, 1)
    asked = GUEST_MAC + socket.inet_aton("192.0.2.9") + bytes(6) + socket.inet_aton(address)
    return (head + asked).ljust(60, b"\0")


@pytest.fixture
def host_address(tap, namespace):
    namespace.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
    write_sysctl("net/ipv4/conf/all/rp_filter", "0")
    return "198.51.100.1"


def test_the_host_answers_a_guest_for_any_of_its_addresses(tap, wire, host_address):
    tap.send(arp_request(host_address))
    (answer,) = wait_until(tap.frames, "the host's answer")
    assert answer[12:14] == b"\x08\x06" and answer[28:32] == socket.inet_aton(host_address)


def test_arp_ignore_8_answers_for_no_address(tap, wire, host_address):
    write_sysctl("net/ipv4/conf/tap0/arp_ignore", "8")
    tap.send(arp_request(host_address))
    write_sysctl("net/ipv4/conf/tap0/arp_ignore", "0")
    tap.send(arp_request(host_address))
    wait_until(tap.frames, "the host's answer to the second")
    assert tap.frames() == []


def test_a_netdev_chain_drops_behind_the_packet_sockets(tap, wire, host_address, namespace):
    """The switch has its copy, and the host's stack hears nothing."""
    chain = '{ type filter hook ingress device "tap0" priority -500; policy drop; }'
    namespace.run("nft", "add", "table", "netdev", "t")
    namespace.run("nft", "add", "chain", "netdev", "t", "c", chain)
    tap.send(arp_request(host_address))
    assert wait_until(wire.frames, "the packet socket's copy") == [arp_request(host_address)]
    namespace.run("nft", "delete", "table", "netdev", "t")
    assert tap.frames() == []
    tap.send(arp_request(host_address))
    assert len(wait_until(tap.frames, "the host's answer without the chain")) == 1


def test_who_removes_a_table_is_heard_of(namespace):
    """By a netlink socket of group NFNLGRP_NFTABLES; also `nft flush ruleset`."""
    watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 12)
    namespace.run("nft", "add", "table", "netdev", "ours")
    watch.bind((0, 1 << 6))
    namespace.run("nft", "flush", "ruleset")
    kinds = []
    with contextlib.suppress(BlockingIOError):
        while True:
            said = watch.recv(1 << 16)
            kinds += [struct.unpack_from("=IH", said)[1]] if b"ours\0" in said else []
    assert 0x0A02 in kinds  # NFT_MSG_DELTABLE
    watch.close()
