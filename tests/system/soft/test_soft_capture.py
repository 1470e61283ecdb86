# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost capture` beside a real switch, daemon, worker and guest, read by tshark."""

import os
import re
import signal
import socket
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.system.captures import (
    CaptureProcess,
    capture_socket,
    captured_ports,
    command,
    environment,
    fields,
    is_recording,
    marks,
    tshark,
    wait_records,
)
from support.system.soft_ports import GUEST_MAC, frame_of, receive

from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

NOBODY = 65534


def is_captured(port):
    """Whether its worker records, or the daemon says that it is captured."""
    return is_recording(port.pid) or bool(captured_ports(port.host))


def exchange(port, guest, size):
    """A frame of each direction."""
    inward, outward = frame_of(size), frame_of(size, outward=True)
    port.inject(inward)
    assert receive(guest, 1) == [inward]
    guest.send(outward)
    guest.drain()
    return inward, outward


@pytest.fixture
def capture(port, tmp_path, require):
    """`capture(*words)`: the command on `port`, whose worker records; ended with the test."""
    require(packages.WIRESHARK.present, "tshark is not installed")
    with ExitStack() as stack:

        def begin(*words):
            made = CaptureProcess(port.host, port.name, tmp_path / "frames.pcapng", *words)
            stack.callback(made.close)
            made.wait_records()
            return made

        yield begin


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_wireshark_shows_what_crossed_the_rings(port, capture, number):
    guest = port.guest(Config())
    running = capture()
    inward, outward = exchange(port, guest, 333)
    port.host.appctl("vhost/announce", port.name, GUEST_MAC.hex(":"))
    status, words = running.end(number)
    begun, ended = words.splitlines()
    assert begun == f"capturing {port.name}; Ctrl-C ends it"
    assert status == 0 and re.fullmatch(r"\d+ frames captured, 0 left out .*", ended)
    wait_until(lambda: not is_captured(port), "the end of the capture")
    assert stat.S_IMODE(running.path.stat().st_mode) == 0o600
    shown = fields(
        running.path, "frame.len == 333", "frame.packet_flags_direction", "frame.comment"
    )
    assert [direction for direction, _ in shown] == ["0x00000001", "0x00000002"]
    assert all(comment.startswith("virtio-net: flags=0 gso_type=NONE") for _, comment in shown)
    raw = running.path.read_bytes()
    assert inward in raw and outward in raw
    assert f"{port.name}: announcement: {GUEST_MAC.hex(':')} announced to the switch" in marks(
        running.path
    )


def test_filters_and_an_end_by_count(port, capture):
    guest = port.guest(Config())
    running = capture("--direction", "tx", "--snap", "60", "--count", "3")
    for size in (100, 200, 300):
        exchange(port, guest, size)
    assert running.end()[0] == 0
    lengths = fields(running.path, "eth", "frame.len", "frame.cap_len")
    assert lengths == [["100", "60"], ["200", "60"], ["300", "60"]]


def test_a_pipe_to_tshark_shows_frames_as_they_come(port, require):
    require(packages.WIRESHARK.present, "tshark is not installed")
    guest = port.guest(Config())
    words = [*command(port.host), port.name, "--count", "2"]
    reads = ["tshark", "-r", "-", "-Y", "eth", "-T", "fields", "-e", "frame.len"]
    with ExitStack() as stack:

        def start(words, **streams):
            started = subprocess.Popen(words, stdout=subprocess.PIPE, **streams)
            stack.callback(started.communicate)
            stack.callback(started.kill)  # whatever it waits for
            return started

        writer = start(words, env=environment(port.host))
        reader = start(reads, stdin=writer.stdout)
        wait_records(port.host, port.name)
        exchange(port, guest, 444)
        assert reader.communicate(timeout=60)[0].split() == [b"444", b"444"]
        assert writer.wait(timeout=60) == 0


def test_it_goes_on_with_the_next_worker(port, capture):
    guest = port.guest(Config())
    running = capture()
    exchange(port, guest, 201)
    assert "upgraded" in port.host.appctl("vhost/upgrade", port.name)
    running.wait_records()
    exchange(port, guest, 202)
    before = port.pid
    os.kill(before, signal.SIGKILL)
    port.host.wait_status(port.name, "listening")
    running.wait_records()
    assert port.pid != before
    exchange(port, port.guest(Config()), 203)
    assert running.end(signal.SIGINT)[0] == 0
    for size in (201, 202, 203):
        assert len(fields(running.path, f"frame.len == {size}", "frame.number")) == 2
    told = marks(running.path)
    assert "process: handed over in" in told and "worker-sigkill" in told


def test_a_reader_that_is_killed_leaves_nothing(port, capture):
    running = capture()
    assert captured_ports(port.host) == [port.name]
    running.end(signal.SIGKILL)
    wait_until(lambda: not is_captured(port), "the end of the capture")


def test_a_reader_that_does_not_read_costs_the_guest_nothing(port, capture):
    guest = port.guest(Config())
    running = capture("--direction", "tx")
    running.process.send_signal(signal.SIGSTOP)
    for _ in range(60):
        guest.send(frame_of(30_000, outward=True))
    guest.drain()
    assert port.counters()["tx_packets"] >= 60
    running.process.send_signal(signal.SIGCONT)
    status, words = running.end(signal.SIGINT)
    captured, lost = map(int, re.findall(r"\d+", words.splitlines()[-1]))
    assert status == 0 and lost > 0 and captured > 0 and captured + lost >= 60
    assert "frames before it were not captured" in tshark(running.path, "-V") or captured <= 34


def test_one_capture_of_a_port_at_a_time(port, capture, tmp_path):
    capture()
    second = CaptureProcess(port.host, port.name, tmp_path / "second.pcapng")
    status, words = second.end()
    assert status == 1 and "capture-busy" in words


def test_of_a_port_that_is_none(soft_host, tmp_path):
    kept = tmp_path / "kept.pcapng"
    kept.write_text("of an earlier capture")
    words = [*command(soft_host), "none0", "--write", str(kept)]
    done = subprocess.run(words, env=environment(soft_host), capture_output=True, text=True)
    assert done.returncode == 1 and "capture-no-port: none0" in done.stderr
    assert kept.read_text() == "of an earlier capture"


def test_another_user_gets_no_connection(soft_host):
    path = capture_socket(soft_host)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    child = os.fork()
    if child == 0:  # as a user who can reach the directory, and no more
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(path)
        except PermissionError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
