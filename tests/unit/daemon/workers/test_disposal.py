# SPDX-License-Identifier: Apache-2.0
"""What a peer has touched is closed elsewhere, and does not pile up where nobody closes it."""

import os
import socket

from ovs_vhost_plugin.daemon.workers.disposal import MOST, Disposal
from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import Dispose
from ovs_vhost_plugin.ipc.channel import Channel


def test_what_is_passed_on_is_closed_by_the_other_side() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    daemon, fork_server = Channel(ours), Channel(theirs)
    reader, writer = os.pipe()
    disposal = Disposal()
    disposal.take(writer)
    assert disposal.waiting
    disposal.pass_on(daemon)
    assert not disposal.waiting
    ((said, (fd,)),) = fork_server.receive()
    assert births.decode_request(said) == Dispose()
    os.close(fd)
    assert os.read(reader, 1) == b"", "nobody else has it"
    os.close(reader)
    daemon.close()
    fork_server.close()


def test_without_a_fork_server_they_wait_and_no_more_are_made() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    dead = Channel(ours)
    disposal = Disposal()
    pipes = [os.pipe() for _ in range(MOST)]
    for number, (_, writer) in enumerate(pipes):
        assert not disposal.full
        disposal.take(writer)
        disposal.pass_on(dead)
        assert len(disposal._fds) == number + 1
    assert disposal.full
    dead.close()
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)
