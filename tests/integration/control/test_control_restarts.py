# SPDX-License-Identifier: Apache-2.0
"""Whatever dies, comes back or comes twice: ports heal, traffic's processes go on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from ovs_vhost_plugin.lab.process import PATIENCE, wait_until

pytestmark = pytest.mark.integration


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def running_port(host, name: str = "vhu0") -> int:
    host.add_client_port(name)
    host.wait_status(name, "connecting")
    host.wait_ofport(name)
    return host.worker_pid(name)


def test_a_killed_daemon_is_followed_by_one_that_adopts_its_worker(host) -> None:
    pid = running_port(host)
    before = host.link("vhu0").split()[:2]

    host.stop_daemon(kill=True)
    assert alive(pid)
    host.start_daemon()

    wait_until(lambda: "running" in phases(host).values(), "hello of the adopted worker")
    assert host.worker_pid("vhu0") == pid
    assert host.link("vhu0").split()[:2] == before
    assert host.status("vhu0")["status"] == "connecting"
    host.delete_port("vhu0")
    host.wait_gone("vhu0")
    assert not alive(pid)


def phases(host) -> dict[str, str]:
    shown = json.loads(host.appctl("vhost/show", "-f", "json"))
    return {port["name"]: port["worker"]["phase"] for port in shown["ports"] if port["worker"]}


def test_a_port_removed_while_no_daemon_ran_is_removed_by_the_next(host) -> None:
    pid = running_port(host)
    host.stop_daemon(kill=True)
    host.delete_port("vhu0")

    host.start_daemon()

    host.wait_gone("vhu0")
    assert not alive(pid)


def test_a_port_changed_while_no_daemon_ran_gets_another_worker(host) -> None:
    pid = running_port(host)
    host.stop_daemon(kill=True)
    host.switch.vsctl("set", "Interface", "vhu0", "external_ids:vhost-user-queues=1")

    host.start_daemon()

    wait_until(lambda: not alive(pid), "end of the old worker")
    wait_until(lambda: phases(host) == {"vhu0": "running"}, "the new worker")
    stats = json.loads(host.appctl("vhost/stats", "-f", "json"))
    assert stats["ports"]["vhu0"]["taps"] == 1


def test_a_worker_that_died_while_no_daemon_ran_is_replaced(host) -> None:
    pid = running_port(host)
    host.stop_daemon(kill=True)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "end of the worker")

    host.start_daemon()

    wait_until(lambda: phases(host) == {"vhu0": "running"}, "the new worker")
    assert host.worker_pid("vhu0") != pid


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGKILL, "worker-sigkill: "),
        # at which the fake worker does what is answered by these signals
        (signal.SIGUSR1, "memory-file-truncated: "),
        (signal.SIGUSR2, "worker-sigsegv: "),
    ],
)
def test_a_worker_that_dies_is_named_and_replaced(host, number: int, error: str) -> None:
    pid = running_port(host)
    ofport = host.wait_ofport("vhu0")

    os.kill(pid, number)

    status = host.wait_status_of("vhu0", lambda status: "error" in status)
    assert status["error"].startswith(error)
    host.wait_status("vhu0", "connecting")
    assert host.worker_pid("vhu0") != pid
    assert host.wait_ofport("vhu0") == ofport


def test_an_adopted_worker_that_dies_of_sigbus_is_named_too(host) -> None:
    pid = running_port(host)
    host.stop_daemon(kill=True)
    host.start_daemon()
    wait_until(lambda: phases(host) == {"vhu0": "running"}, "adoption")

    os.kill(pid, signal.SIGUSR1)

    status = host.wait_status_of("vhu0", lambda status: "error" in status)
    assert status["error"].startswith("memory-file-truncated: ")
    host.wait_status("vhu0", "connecting")


def test_a_worker_that_always_fails_is_tried_ever_more_slowly(host) -> None:
    begun = time.monotonic()
    host.add_client_port("raise0")

    status = host.wait_status_of("raise0", lambda status: "error" in status)
    assert status["error"].startswith("worker-exit-70: RuntimeError: this worker was told to fail")

    def failures() -> int:
        shown = json.loads(host.appctl("vhost/show", "-f", "json"))
        return shown["faults"].get("worker-exit-70", 0)

    wait_until(lambda: failures() >= 4, "retries")
    lines = host.log.read_text().splitlines()
    starts = sum("starting a worker" in line for line in lines)
    # after 0.1, 0.2, 0.4, … seconds
    assert time.monotonic() - begun >= 0.1 * (2 ** (starts - 1) - 1)
    host.delete_port("raise0")
    host.wait_gone("raise0")


@pytest.mark.parametrize("name", ["rude0", "flood0"])
def test_a_worker_taken_over_ends_itself_only(host, name: str) -> None:
    good = running_port(host)
    host.add_client_port(name)

    status = host.wait_status_of(name, lambda status: "error" in status)

    assert status["error"].startswith("worker-channel: ")
    assert alive(good)
    host.delete_port(name)
    wait_until(lambda: not host.link(name), "removal")
    assert phases(host) == {"vhu0": "running"}


def test_statistics_come_without_a_worker_that_does_not_answer(host) -> None:
    running_port(host)
    host.add_client_port("mute0")
    host.worker_pid("mute0")

    stats = json.loads(host.appctl("vhost/stats", "-f", "json"))

    assert list(stats["ports"]) == ["vhu0"]
    assert stats["missing"] == ["mute0"]


def test_a_fork_server_that_dies_is_replaced_and_workers_go_on(host) -> None:
    pid = running_port(host)
    fork_server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(fork_server, signal.SIGKILL)
    host.add_client_port("vhu1")

    host.wait_status("vhu1", "connecting")
    assert alive(pid)
    # The orphan's end is still seen.
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: host.worker_pid("vhu0") != pid, "another worker")


def test_a_second_daemon_waits_for_the_first_to_end(host) -> None:
    pid = running_port(host)
    second = host.start_another([], "second")
    log = host.directory / "second.log"
    wait_until(lambda: log.exists() and "another daemon serves" in log.read_text(), "the lock")

    host.add_client_port("vhu1")
    host.wait_status("vhu1", "connecting")
    assert "vhu1" not in log.read_text()

    host.stop_daemon(kill=True)
    host.add_client_port("vhu2")
    host.wait_status("vhu2", "connecting")
    assert log.read_text().count("another daemon serves") == 1
    assert host.worker_pid("vhu0") == pid
    assert second.running


def test_an_ovsdb_server_restart_heals_by_itself(host) -> None:
    pid = running_port(host)

    host.switch.stop_server(kill=True)
    wait_until(lambda: "waiting" in host.appctl("vhost/show"), "the daemon's notice")
    assert alive(pid) and host.link("vhu0")
    host.switch.start_server()
    host.add_client_port("vhu1")

    host.wait_status("vhu1", "connecting")
    assert host.worker_pid("vhu0") == pid
    assert phases(host) == {"vhu0": "running", "vhu1": "running"}


def test_a_port_deleted_in_a_restart_of_ovsdb_server_is_removed(host) -> None:
    pid = running_port(host)
    host.stop_daemon()
    host.start_daemon()
    daemon = host.daemon.pid
    os.kill(daemon, signal.SIGSTOP)
    # The daemon hears of the deletion only from the next server.
    host.delete_port("vhu0")
    host.switch.restart_server()
    os.kill(daemon, signal.SIGCONT)

    host.wait_gone("vhu0")
    assert not alive(pid)


def test_an_ovs_vswitchd_restart_finds_the_tap_again(host) -> None:
    pid = running_port(host)
    ofport = host.wait_ofport("vhu0")

    host.switch.restart_vswitchd(kill=True)

    assert host.wait_ofport("vhu0") == ofport
    assert host.worker_pid("vhu0") == pid


def test_a_monitored_daemon_that_crashes_is_started_again(make_host) -> None:
    host = make_host(daemon_options=["--monitor"])
    worker = running_port(host)
    pidfile = host.directory / "ovs-vhost.pid"
    daemon = int(pidfile.read_text())

    os.kill(daemon, signal.SIGSEGV)

    wait_until(
        lambda: pidfile.read_text() != f"{daemon}\n" and host.switch.answers("ovs-vhost"),
        "another daemon",
    )
    wait_until(lambda: "running" in phases(host).values(), "adoption")
    assert host.worker_pid("vhu0") == worker


def test_exit_leaves_the_workers_and_what_is_published(host) -> None:
    pid = running_port(host)

    host.appctl("exit")

    assert host.daemon.wait(PATIENCE) == 0
    assert alive(pid)
    assert host.status("vhu0")["status"] == "connecting"
    assert not (host.directory / "ovs-vhost.pid").exists()


def test_exit_with_cleanup_leaves_nothing(host) -> None:
    pid = running_port(host)
    host.add_server_port("vhu1")
    host.wait_status("vhu1", "listening")

    host.appctl("exit", "--cleanup")

    assert host.daemon.wait(PATIENCE) == 0
    assert not alive(pid)
    assert host.leftovers() == []
    assert not host.status("vhu0").keys() - {"mode"}
    assert not host.link("vhu0")


def test_an_idle_daemon_does_not_wake_up(host) -> None:
    running_port(host)
    host.add_server_port("vhu1")
    host.wait_status("vhu1", "listening")
    # A fake worker in client mode asks for a connection ten times a second.
    host.delete_port("vhu0")
    wait_until(lambda: not host.link("vhu0"), "removal")
    status = Path(f"/proc/{host.daemon.pid}/status")

    def switches() -> int:
        lines = status.read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    wait_until(lambda: switches_in(switches, 2.0) == 0, "two idle seconds")


def switches_in(switches, seconds: float) -> int:
    before = switches()
    signal.sigtimedwait([], seconds)
    return switches() - before
