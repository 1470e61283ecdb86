# SPDX-License-Identifier: Apache-2.0
"""A worker that was taken over against the daemon: it cannot be frozen, flooded or kept busy."""

import json
from pathlib import Path

import pytest
from support.control.stuck_files import hanging_file_elsewhere, lingering_socket

from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def lingering():
    """A socket of which the last close takes ten minutes."""
    with lingering_socket() as sock:
        yield sock


def answers(host):
    """The daemon does; `appctl` fails where it does not."""
    return json.loads(host.appctl("vhost/show", "--format", "json"))


def ended_as(host, pid, name):
    """Wait until the port's worker has ended by that name, and another one is there."""
    wait_until(lambda: host.status("evil0").get("error", "").startswith(name), f"{name} published")
    wait_until(lambda: host.worker_pid("evil0") != pid, "another worker")
    host.wait_status("evil0", "listening")


def test_no_fd_reaches_the_daemon(evil_host, evil, lingering):
    """Whoever closes it last waits for it: over a socket that would have been the daemon."""
    evil.give(lingering.fileno())
    answer = evil.run("socket.send_fds(me.channel._sock, [b'x'], [gift])")
    assert answer["errno"] == "EPIPE"
    answers(evil_host)
    evil_host.add_server_port("after0")
    evil_host.wait_status("after0", "listening")
    evil_host.delete_port("after0")


FLOODS = {
    "state": "me.tell_state('listening', errors=number)",
    "started": "me.say(reports.Started(number))",
    "rarp": "me.say(reports.Rarp(bytes(6), 0))",
    "connect": "me.say(reports.AskConnection())",
    "holding": "me.say(reports.HoldState(number, True, (), {}))",
    "stations": "me.say(reports.GuestStations(()))",
    "bytes": "me.tell_state('listening', error_detail='y' * 100000)",
    "no report": "me.tell('state', x='y' * 100000)",
    "noise": "os.write(me.reports.fileno(), b'x' * 4096)",
    "depth": "os.write(me.reports.fileno(), b'[' * 4000 + b'\\n')",
    "unasked": "me.say(reports.Stats(number, {}))",
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_costs_the_worker_alone(evil_host, evil, kind):
    pid = evil.pid
    evil.send(
        f"""
        os.set_blocking(me.reports.fileno(), True)
        for number in range(1_000_000):
            {FLOODS[kind]}
        """
    )
    answers(evil_host)
    ended_as(evil_host, pid, "worker-channel: ")


def test_a_worker_that_hangs_is_found_and_replaced(evil_host, evil):
    """By its pulse: nobody asks it anything."""
    pid = evil.pid
    evil.send("me.pulse.beat(1); time.sleep(600)")
    ended_as(evil_host, pid, "worker-stuck: ")


def test_an_alarm_that_never_stops_costs_the_worker_alone(evil_host, evil):
    """Every nanosecond, and it is busy with nothing."""
    pid = evil.pid
    evil.run("libc.timerfd_settime(me.alarm, 0, struct.pack('=4q', 0, 1, 0, 1), None)")
    ended_as(evil_host, pid, "worker-channel: a flood of alarms")


def test_one_that_does_not_quit_is_killed(evil_host, evil):
    pid = evil.pid
    evil.run("me.obeys = False")
    evil.run("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    evil_host.delete_port("evil0")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    evil_host.add_server_port("evil0")
    evil_host.wait_status("evil0", "listening")


def test_one_that_the_kernel_does_not_end_is_named_and_its_name_is_free(evil_host, evil):
    """It waits for a file system that does not answer, which no signal ends."""
    with hanging_file_elsewhere() as passer:
        evil.give_by(lambda sock: passer.send(b"x", sock.fileno()))
        pid = evil.pid
        index = evil_host.namespace.run("cat", "/sys/class/net/evil0/ifindex")
        evil.send("me.pulse.beat(1); os.pread(gift, 1, 0)")
        wait_until(lambda: answers(evil_host)["stuck"], "a worker that is stuck")
        fault = evil_host.status("evil0").get("error", "")
        assert not fault or fault.startswith("worker-stuck")
        assert "evil0: worker-stuck: the kernel does not end" in evil_host.log.read_text()
        assert {"name": "evil0", "pid": pid} in answers(evil_host)["stuck"]
        # Another worker, with another tap: the stuck one has nothing of the port any more.
        evil_host.wait_status("evil0", "listening")
        assert evil_host.namespace.run("cat", "/sys/class/net/evil0/ifindex") != index
        evil_host.wait_ofport("evil0")
        assert Path(f"/proc/{pid}").exists(), "it is still there"
    wait_until(lambda: not answers(evil_host)["stuck"], "its end, when the file answers")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")


def test_what_it_says_is_fit_to_print(evil_host, evil):
    """In the log, in the database and on a terminal."""
    words = "\\x1b[2J\\n[red]" + "x" * 300
    evil.run(f"me.tell_state('listening', errors=1, error='e', error_detail='{words}')")
    error = wait_until(lambda: evil_host.status("evil0").get("error"), "its error")
    assert error.isprintable() and len(error) < 300
    lines = [line for line in evil_host.log.read_text().splitlines() if "?[2J" in line]
    assert lines and all(line.isprintable() for line in lines)
    assert "\x1b" not in evil_host.appctl("vhost/show")
