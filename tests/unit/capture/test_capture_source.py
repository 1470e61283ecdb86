# SPDX-License-Identifier: Apache-2.0
"""The reader's connection and its loop, with a daemon that says what a test lets it say."""

import mmap
import os
import signal
import socket
import stat
import struct
from argparse import Namespace

import dpkt
import pytest

from ovs_vhost_plugin.capture import command
from ovs_vhost_plugin.capture.output import CaptureOutput
from ovs_vhost_plugin.capture.source import CaptureSource
from ovs_vhost_plugin.control import CommandError
from ovs_vhost_plugin.ipc.captures import (
    FROM_DAEMON,
    FROM_READER,
    AskCapture,
    CaptureEnded,
    CaptureMark,
    GivenRings,
)
from ovs_vhost_plugin.ipc.channel import Channel
from ovs_vhost_plugin.jit.capture_ring import HEAD, LOST, PART, RECORD_HEAD, RECORDS, TX

RECORD = struct.Struct("=5q16sq")
TAKEN = CaptureMark("status", "running", 1.0)


class SayingDaemon:
    """A daemon at `path` for one reader, and the memory that a worker of its writes."""

    def __init__(self, path):
        self.path = os.fspath(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen()
        self.channel = None

    def accept(self):
        self.channel = Channel(self._listener.accept()[0])
        return self.channel

    def say(self, *messages):
        for message in messages:
            self.channel.send(FROM_DAEMON.encode(message))

    def give(self):
        """A worker with new memory, of one queue pair."""
        fd = os.memfd_create("frames")
        os.ftruncate(fd, PART)
        memory = mmap.mmap(fd, PART)
        self.channel.send(FROM_DAEMON.encode(GivenRings(1)), [fd])
        os.close(fd)
        return memory

    def close(self):
        self._listener.close()
        if self.channel is not None:
            self.channel.close()


def write(memory, *frames, lost=0):
    """Records of frames, all at once."""
    data = b""
    for number, frame in enumerate(frames):
        padded = frame.ljust(-(-len(frame) // 8) * 8, b"\0")
        numbers = RECORD_HEAD + len(padded), number + 1, TX | 12 << 32, len(frame), len(frame)
        data += RECORD.pack(*numbers, bytes(16), 0) + padded
    memory[RECORDS : RECORDS + len(data)] = data
    struct.pack_into("=q", memory, LOST, lost)
    struct.pack_into("=q", memory, HEAD, len(data))


@pytest.fixture
def daemon(tmp_path):
    made = SayingDaemon(tmp_path / "d")
    yield made
    made.close()


@pytest.fixture
def source(daemon):
    made = CaptureSource(daemon.path, AskCapture("p0", TX, 60))
    daemon.accept()
    yield made
    made.close()


def test_it_asks_and_hears(daemon, source):
    ((said, _),) = daemon.channel.receive()
    assert FROM_READER.decode(said) == AskCapture("p0", TX, 60)
    daemon.say(TAKEN)
    source.await_answer(60)
    assert not source.ended and source.look().marks == [TAKEN]


def test_a_refusal_is_its_end(daemon, source):
    daemon.say(CaptureEnded("capture-busy: process 7 captures p0"))
    source.await_answer(60)
    assert source.ended == "capture-busy: process 7 captures p0"


def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(source):
    source.await_answer(0.01)
    assert "does not answer" in source.ended


def test_frames_of_one_worker_after_the_other(daemon, source):
    first = daemon.give()
    source.look()
    write(first, b"one", b"two", lost=3)
    second = daemon.give()
    write(second, b"three", lost=4)
    assert [frame.data for frame in source.look().frames] == [b"one", b"two", b"three"]
    assert source.lost == 7


def test_a_daemon_that_ends_has_its_last_words_and_frames_read(daemon, source):
    memory = daemon.give()
    write(memory, b"one")
    daemon.channel.receive()
    daemon.say(TAKEN)
    daemon.channel.close()
    found = source.look()
    assert [frame.data for frame in found.frames] == [b"one"] and found.marks == [TAKEN]
    assert source.look().frames == [] and "the daemon has ended" in source.ended


# -- the command ---------------------------------------------------------------------------------


def run(source, path, over=(), **options):
    """The command's loop with these options."""
    chosen = {"port": "p0", "direction": "both", "snap": 60, "count": None, "duration": None}
    output = CaptureOutput(os.fspath(path), lambda: bool(over))
    made = command.PcapngCapture(Namespace(**{**chosen, **options}), source, output)
    made.run(over)
    output.close()
    return made


def frames_of(path):
    with path.open("rb") as file:
        return [data for _, data in dpkt.pcapng.Reader(file)]


def test_a_signal_before_the_first_look_has_what_there_is(daemon, source, tmp_path):
    write(daemon.give(), b"one", b"two", lost=5)
    made = run(source, tmp_path / "f", over=[signal.SIGINT])
    assert frames_of(tmp_path / "f") == [b"one", b"two"]
    assert made.summary == "2 frames captured, 5 left out for want of room" and not made.trouble


def test_exactly_so_many_frames(daemon, source, tmp_path):
    write(daemon.give(), b"one", b"two", b"three")
    assert run(source, tmp_path / "f", count=2).summary.startswith("2 frames")
    assert frames_of(tmp_path / "f") == [b"one", b"two"]


def test_a_time(source, tmp_path):
    assert not run(source, tmp_path / "f", duration=0.01).trouble


def test_nonsense_ends_it_with_a_file_that_is_whole(daemon, source, tmp_path):
    memory = daemon.give()
    write(memory, b"one")
    struct.pack_into("=q", memory, HEAD, 1 << 40)
    assert run(source, tmp_path / "f").trouble.startswith("capture-ring-broken: ")
    assert frames_of(tmp_path / "f") == []


def test_an_end_by_the_daemon_is_told(daemon, source, tmp_path):
    daemon.say(CaptureEnded("capture-no-port: the port is no more"))
    assert run(source, tmp_path / "f").trouble == "capture-no-port: the port is no more"


def test_a_pipe_that_nobody_reads_does_not_keep_it(source):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    output = CaptureOutput("-", lambda: True)
    output._fd = writer
    output.write(bytes(1 << 20))  # more than a pipe holds
    assert len(os.read(reader, 1 << 20)) < 1 << 20
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        output.write(b"x")
    os.close(writer)


def test_a_file_that_was_there_is_replaced(tmp_path):
    """Whoever owned it, has another name for it or has it open: it does not get the capture."""
    path, other = tmp_path / "f", tmp_path / "other name"
    path.write_bytes(b"old")
    path.chmod(0o666)
    other.hardlink_to(path)
    CaptureOutput(os.fspath(path), lambda: False).close()
    made = path.stat()
    assert stat.S_IMODE(made.st_mode) == 0o600 and made.st_uid == os.geteuid()
    assert path.read_bytes() == b"" and other.read_bytes() == b"old"


def test_a_link_to_a_file_is_refused(tmp_path):
    """A user's in /tmp, or /dev/stdout: neither it nor its file is touched."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"old")
    link.symlink_to(file)
    with pytest.raises(OSError, match="name the file itself"):
        CaptureOutput(os.fspath(link), lambda: False)
    assert link.is_symlink() and file.read_bytes() == b"old"
    file.unlink()
    with pytest.raises(FileExistsError):
        CaptureOutput(os.fspath(link), lambda: False)
    assert not file.exists()


def test_a_pipe_keeps_its_mode(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    path.chmod(0o644)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    CaptureOutput(os.fspath(path), lambda: False).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    os.close(reader)


def test_a_terminal_gets_no_pcapng(monkeypatch):
    monkeypatch.setattr(command.sys, "stdout", Namespace(isatty=lambda: True))
    with pytest.raises(CommandError, match="not for a terminal"):
        command.main(["p0"])


@pytest.mark.parametrize(
    "words", [["--count", "0"], ["--snap", "0"], ["--snap", "70000"], ["--duration", "-1"]]
)
def test_options_out_of_range(words, capsys):
    with pytest.raises(SystemExit):
        command.parser().parse_args(["p0", *words])
    assert f"argument {words[0]}: not" in capsys.readouterr().err
