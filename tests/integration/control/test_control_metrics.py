# SPDX-License-Identifier: Apache-2.0
"""Metrics of a daemon beside a real switch: served as the row says, whatever clients do."""

import contextlib
import socket
import stat
from pathlib import Path

import pytest
from support.metrics_page import ask, connect, names_of_dashboard, samples

from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.integration

CLIENTS = 200


def set_place(host, value: str) -> None:
    host.switch.vsctl("set", "Open_vSwitch", ".", f"other_config:vhost-user-metrics={value}")


def scrape(where) -> dict[tuple[str, tuple[str, ...]], float]:
    head, _, page = ask(where).partition(b"\r\n\r\n")
    return samples(page.decode()) if head.startswith(b"HTTP/1.1 200") else {}


def shown(host) -> str:
    lines = host.appctl("vhost/show").splitlines()
    return next((line for line in lines if line.startswith("metrics: ")), "")


def test_a_scrape_by_the_socket_has_what_the_dashboard_asks_for(host) -> None:
    path = Path(host.directory) / "ovs-vhost.metrics"
    assert not path.exists() and shown(host) == ""
    mac = "external_ids:attached-mac=52:54:00:00:00:07"
    host.add_client_port("vhu0", None, mac)
    host.wait_ofport("vhu0")
    host.wait_status("vhu0", "connecting")
    host.appctl("vhost/announce", "vhu0")
    set_place(host, "unix")
    wait_until(lambda: shown(host) == f"metrics: unix:{path}", "the socket is served")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660

    found = scrape(path)
    assert found["ovs_vhost_port_info", ("vhu0", "br0", "client", "connecting")] == 1
    assert found["ovs_vhost_port_answered", ("vhu0",)] == 1
    assert found["ovs_vhost_port_receive_packets_total", ("vhu0",)] == 7
    assert found["ovs_vhost_announcement_duration_seconds_count", ("manual",)] == 1
    of_nothing = {"ovs_vhost_port_errors_total", "ovs_vhost_port_faults_total"}
    of_nothing |= {"ovs_vhost_port_hold_packets_total", "ovs_vhost_faults_total"}
    there = {name for name, _ in found}
    assert names_of_dashboard() - there - of_nothing == set()

    set_place(host, "off")
    wait_until(lambda: not path.exists(), "nothing is served")
    assert shown(host) == ""


def test_hostile_clients_keep_nobody_from_anything(host) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = free.getsockname()
    with host.namespace.entered():
        set_place(host, f"tcp:{where[1]}")
        wait_until(lambda: shown(host).startswith("metrics: http://"), "the port is served")
        wait_until(lambda: scrape(where), "a scrape")
        clients = [connect(where) for _ in range(CLIENTS)]
        for number, client in enumerate(clients):
            with contextlib.suppress(ConnectionError):  # one too many
                client.sendall(b"\x16\x03\x01" if number % 2 else b"GET /metrics HTTP/1.1\r\n\r\n")
        host.add_client_port("vhu0")
        host.wait_status("vhu0", "connecting")  # the daemon works on
        for client in clients:
            client.close()
        wait_until(lambda: scrape(where).get(("ovs_vhost_ports", ())) == 1, "a scrape with it")


def test_the_exporter_is_nobodys_and_comes_again(host) -> None:
    path = Path(host.directory) / "ovs-vhost.metrics"
    set_place(host, "unix")
    wait_until(lambda: path.exists() and scrape(path), "a scrape")
    process = exporter_of(host.daemon.pid)
    words = (process / "status").read_text()
    assert "Uid:\t65534\t65534\t65534\t65534" in words and "NoNewPrivs:\t1" in words
    assert "CapBnd:\t0000000000000000" in words and "Groups:\t \n" in words
    host.stop_daemon()
    assert not path.exists()
    host.start_daemon()
    wait_until(lambda: path.exists() and scrape(path), "a scrape of the next daemon")


def exporter_of(pid: int) -> Path:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [Path("/proc", child) for child in children]
    (one,) = [p for p in found if b"metrics.exporter" in (p / "cmdline").read_bytes()]
    return one
