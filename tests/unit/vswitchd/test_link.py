# SPDX-License-Identifier: Apache-2.0
import select

import pytest

from ovs_vhost_plugin.vswitchd.link import FIRST_RETRY, LAST_RETRY, MAX_UNSENT, Link, LinkLost


def test_bytes_go_both_ways(peer, notes):
    link = Link(lambda: str(peer.path))
    assert link.connect(0.0)
    assert not link.connect(0.0), "it is connected already"
    peer.accept()
    link.send(b"question")
    assert peer.receive() == b"question"
    assert link.receive() == b""
    peer.send(b"answer")
    assert link.receive() == b"answer"
    link.wait(notes)
    assert (notes.events, notes.times) == ([select.POLLIN], [])
    link.close()


def test_attempts_are_spaced_by_a_growing_bounded_backoff(tmp_path, notes):
    link = Link(lambda: str(tmp_path / "nobody"))
    now, pauses = 0.0, []
    for _ in range(10):
        assert not link.connect(now)
        assert link.error == "No such file or directory"
        link.wait(notes)
        pauses.append(notes.times[-1] / 1e3 - now)
        now += pauses[-1]
    assert pauses[:3] == pytest.approx([FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY])
    assert pauses[-3:] == pytest.approx([LAST_RETRY] * 3)
    assert notes.events == []


def test_no_attempt_before_the_backoff_is_over(peer):
    link = Link(lambda: str(peer.path))
    link.lose("test", 10.0)
    assert not link.connect(10.0 + FIRST_RETRY / 2)
    assert link.connect(10.0 + FIRST_RETRY)
    link.worked()
    link.lose("test", 20.0)
    assert link.connect(20.0 + FIRST_RETRY), "a connection that worked resets the backoff"
    link.close()


@pytest.mark.parametrize(
    ("path", "error"),
    [("/nowhere/" + "x" * 200, "AF_UNIX path too long"), ("/dev/null", "Connection refused")],
)
def test_a_path_that_is_no_socket_is_an_error_that_can_be_read(path, error):
    link = Link(lambda: path)
    assert not link.connect(0.0)
    assert link.error == error


def test_the_end_of_the_peer_is_noticed(peer):
    link = Link(lambda: str(peer.path))
    link.connect(0.0)
    peer.accept()
    peer.hang_up()
    with pytest.raises(LinkLost, match="closed by the peer"):
        link.receive()
    link.lose("closed by the peer", 0.0)
    for call in (link.receive, lambda: link.send(b"x")):
        with pytest.raises(LinkLost, match="closed by the peer"):
            call()


def test_a_peer_that_does_not_read_is_given_up(peer, notes):
    link = Link(lambda: str(peer.path))
    link.connect(0.0)
    peer.accept()
    link.send(bytes(MAX_UNSENT))
    link.wait(notes)
    assert notes.events == [select.POLLIN | select.POLLOUT]
    with pytest.raises(LinkLost, match="does not read"):
        for _ in range(8):
            link.send(bytes(MAX_UNSENT))
    link.close()


def test_what_the_socket_did_not_take_is_sent_later_in_order(peer):
    link = Link(lambda: str(peer.path))
    link.connect(0.0)
    peer.accept()
    data = bytes(range(256)) * (MAX_UNSENT // 256)
    link.send(data)
    received = b""
    while len(received) < len(data):
        received += peer.receive()
        link.send(b"")
    assert received == data
    link.close()
