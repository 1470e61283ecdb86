# SPDX-License-Identifier: Apache-2.0
"""Each kind of fd on each request that takes one, of which none is asked what it has to say."""

import os
import socket
import threading
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.errors import PeerError, PeerErrorName
from ovs_vhost_plugin.vhost.fds import closing
from ovs_vhost_plugin.vhost.fds.closing import close_fds
from ovs_vhost_plugin.vhost.fds.kind import Kind, Rule, kind_of, require
from ovs_vhost_plugin.vhost.features import offer
from ovs_vhost_plugin.vhost.message import Message
from ovs_vhost_plugin.vhost.session import TABLE, Session
from ovs_vhost_plugin.vhost.spec import FrontendRequest as R

_U64 = spec.U64.pack(0)
REQUESTS = {
    R.SET_MEM_TABLE: spec.MEMORY_HEADER.pack(1, 0) + spec.MEMORY_REGION.pack(0, 4096, 0, 0),
    R.ADD_MEM_REG: spec.SINGLE_REGION.pack(0, 0, 4096, 0, 0),
    R.SET_LOG_BASE: spec.LOG.pack(4096, 0),
    R.SET_INFLIGHT_FD: spec.INFLIGHT.pack(4096, 0, 1, 1),
    R.SET_VRING_KICK: _U64,
    R.SET_VRING_CALL: _U64,
    R.SET_VRING_ERR: _U64,
    R.SET_BACKEND_REQ_FD: b"",
    R.SET_DEVICE_STATE_FD: spec.DEVICE_STATE.pack(0, 0),
}


def named(fd):
    """The fd, opened with O_PATH."""
    place = os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    os.close(fd)
    return place


def pipe_end():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def fifo(place):
    os.mkfifo(place)
    return os.open(place, os.O_RDWR)


def file_named_like_an_eventfd(place):
    return os.open(place / "anon_inode:[eventfd]", os.O_CREAT | os.O_RDWR)


def unix_socket(kind=socket.SOCK_STREAM):
    return socket.socket(socket.AF_UNIX, kind).detach()


MADE = {
    "eventfd": (Kind.EVENTFD, lambda _: os.eventfd(0)),
    "pipe": (Kind.PIPE, lambda _: pipe_end()),
    "fifo": (Kind.PIPE, lambda place: fifo(place / "fifo")),
    "unix-stream": (Kind.SOCKET, lambda _: unix_socket()),
    "memfd": (Kind.MEMORY, lambda _: os.memfd_create("guest")),
    "memfd-sealed": (Kind.MEMORY, lambda _: os.memfd_create("guest", os.MFD_ALLOW_SEALING)),
    "memfd-huge": (Kind.MEMORY, lambda _: os.memfd_create("guest", os.MFD_HUGETLB)),
    "tmpfs": (Kind.MEMORY, lambda _: os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)),
    "unix-datagrams": (Kind.OTHER, lambda _: unix_socket(socket.SOCK_DGRAM)),
    "unix-packets": (Kind.OTHER, lambda _: unix_socket(socket.SOCK_SEQPACKET)),
    "internet": (Kind.OTHER, lambda _: socket.socket(socket.AF_INET).detach()),
    "disk": (Kind.OTHER, lambda _: os.open(Path(__file__).parent, os.O_TMPFILE | os.O_RDWR)),
    "directory": (Kind.OTHER, lambda place: os.open(place, os.O_RDONLY)),
    "tmpfs-directory": (Kind.OTHER, lambda _: os.open("/dev/shm", os.O_RDONLY)),
    "zero": (Kind.OTHER, lambda _: os.open("/dev/zero", os.O_RDWR)),
    "named-like-an-eventfd": (Kind.OTHER, file_named_like_an_eventfd),
    "path-of-eventfd": (Kind.OTHER, lambda _: named(os.eventfd(0))),
    "path-of-memfd": (Kind.OTHER, lambda _: named(os.memfd_create("guest"))),
    "path-of-pipe": (Kind.OTHER, lambda _: named(pipe_end())),
    "pidfd": (Kind.OTHER, lambda _: os.pidfd_open(os.getpid())),
}


def new_session(**offered):
    session = Session(offer(1, 1500, **offered))
    ask(session, R.SET_PROTOCOL_FEATURES, spec.U64.pack(session.offer.protocol_features))
    ask(session, R.SET_FEATURES, spec.U64.pack(1 << spec.Feature.PROTOCOL_FEATURES))
    return session


def ask(session, request, payload, *fds):
    """The effects it has; fds in them are nobody's. Raises PeerError."""
    handling = session.receive(Message(request, payload, spec.VERSION, fds))
    effects = []
    try:
        effect = next(handling)
        while True:
            effects.append(effect)
            effect = handling.send(None)
    except StopIteration:
        return effects


def test_an_eventfd_is_made_non_blocking():
    fd = os.eventfd(0)
    assert os.get_blocking(fd)
    require(fd, Rule(Kind.EVENTFD, PeerErrorName.VRING_FD_NOT_EVENTFD))
    assert not os.get_blocking(fd)
    os.close(fd)


def test_the_table_of_this_test_has_all_requests_that_take_fds():
    assert {R(number) for number, row in TABLE.items() if row.takes is not None} == set(REQUESTS)


@pytest.mark.parametrize("made", MADE)
def test_kinds(made, tmp_path):
    kind, make = MADE[made]
    fd = make(tmp_path)
    assert kind_of(fd) is kind
    close_fds([fd])


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_request_takes_its_own_kind_and_refuses_others_by_name(request_, made, tmp_path):
    kind, make = MADE[made]
    rule = TABLE[request_].takes
    if kind is rule.kind:
        return
    session = new_session()
    try:
        effects = ask(session, request_, REQUESTS[request_], make(tmp_path))
        (error,) = [effect.error for effect in effects]  # told in the reply
    except PeerError as raised:
        error = raised
    assert error.name == rule.error
    assert rule.kind.value in error.detail
    session.close()


@pytest.mark.parametrize("made", ["disk", "zero", "directory"])
@pytest.mark.parametrize("request_", [R.SET_MEM_TABLE, R.SET_LOG_BASE, R.SET_INFLIGHT_FD])
def test_where_any_file_may_be_memory_that_is_not_looked_at(request_, made, tmp_path):
    session = new_session(any_memory=True)
    (effect,) = ask(session, request_, REQUESTS[request_], MADE[made][1](tmp_path))
    close_fds(getattr(effect, "fds", ()) or [effect.fd])
    session.close()


@pytest.fixture
def hang(monkeypatch):
    """Have whatever is closed elsewhere wait until the event is set."""
    release = threading.Event()
    close_all = closing._close_all

    def close_late(fds):
        release.wait()
        close_all(fds)

    monkeypatch.setattr(closing, "_close_all", close_late)
    yield release
    release.set()


@pytest.mark.parametrize("made", MADE)
def test_what_may_take_its_time_is_closed_elsewhere(hang, made, tmp_path):
    kind, make = MADE[made]
    fd = make(tmp_path)
    close_fds([fd])
    at_once = kind in (Kind.EVENTFD, Kind.PIPE, Kind.MEMORY)
    assert Path(f"/proc/self/fd/{fd}").is_symlink() is not at_once
    hang.set()
    wait_until(lambda: not Path(f"/proc/self/fd/{fd}").is_symlink(), "the end")


def test_more_than_can_be_waited_for_ends_the_worker(hang, monkeypatch):
    given_up = []
    monkeypatch.setattr(closing, "_PATIENCE", 0.01)
    monkeypatch.setattr(closing, "_give_up", lambda: given_up.append(True))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(closing.AT_ONCE + 1)]
    for file in files:
        assert not given_up
        close_fds([file])
    assert given_up
    os.close(files[-1])  # which was left
    hang.set()


def test_where_no_thread_can_be_had_it_is_closed_here(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    for _ in range(2 * closing.AT_ONCE):
        fd = os.open("/dev/null", os.O_RDONLY)
        close_fds([fd])
        assert not Path(f"/proc/self/fd/{fd}").is_symlink()
