# SPDX-License-Identifier: Apache-2.0
"""Ports by ovs-vsctl on a real ovsdb-server and ovs-vswitchd: what comes, what goes."""

import json
import socket
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ovs_vhost_plugin.ipc.codec import codec_of
from ovs_vhost_plugin.ipc.spec import PortSettings
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until

pytestmark = pytest.mark.integration


def test_a_client_port_has_its_tap_and_ofport_before_there_is_a_vm(host) -> None:
    path = host.add_client_port("vhu0")

    assert host.wait_ofport("vhu0") > 0
    host.wait_status("vhu0", "connecting")
    link = wait_until(lambda: (shown := host.link("vhu0")) and ",UP" in shown and shown, "it is up")
    assert "tun type tap pi off vnet_hdr on multi_queue" in link
    assert "persist on" in link
    assert "NO-CARRIER" in link
    ipv6 = Path("/proc/sys/net/ipv6/conf/vhu0/disable_ipv6")
    assert host.namespace.run("cat", str(ipv6)).strip() == "1"
    assert host.status("vhu0")["socket"] == str(path)


def test_the_daemon_connects_on_behalf_of_its_unprivileged_worker(host) -> None:
    path = host.directory / "vhu0.sock"
    with socket.socket(socket.AF_UNIX) as front_end:
        front_end.bind(str(path))
        path.chmod(0o600)
        front_end.listen(1)
        front_end.settimeout(PATIENCE)
        host.add_client_port("vhu0", path)
        connection, _ = front_end.accept()

        host.wait_status("vhu0", "connected")
        connection.close()
    status = host.status("vhu0")
    assert status["features"] == "0x0000000140000000"
    assert (status["num-of-vrings"], status["vring-0-size"], status["vring-1-size"]) == (
        *("2", "256"),
        "512",
    )
    assert "error" not in status
    wait_until(lambda: host.switch.interface("vhu0", "link_state") == "up", "link_state up")


def test_a_server_port_listens_for_those_who_may_connect(make_host) -> None:
    host = make_host(daemon_options=["--sock-owner", "nobody:daemon", "--sock-mode", "0620"])
    path = host.add_server_port("vhu1")

    host.wait_status("vhu1", "listening")
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o620
    assert (path.owner(), path.group()) == ("nobody", "daemon")
    with socket.socket(socket.AF_UNIX) as front_end:
        front_end.connect(str(path))
        host.wait_status("vhu1", "connected")


def test_server_sockets_are_where_vhost_sock_dir_says(host) -> None:
    host.switch.vsctl("set", "Open_vSwitch", ".", "other_config:vhost-sock-dir=vhost")
    host.add_server_port("vhu1")

    host.wait_status("vhu1", "listening")
    assert (host.directory / "vhost" / "vhu1").is_socket()


def test_a_removed_port_leaves_nothing(host) -> None:
    path = host.add_server_port("vhu1")
    host.wait_status("vhu1", "listening")
    host.wait_ofport("vhu1")
    pid = host.worker_pid("vhu1")

    host.delete_port("vhu1")

    host.wait_gone("vhu1")
    assert not path.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_that_does_not_quit_is_killed(host) -> None:
    host.add_client_port("deaf0")
    host.wait_status("deaf0", "connecting")

    host.delete_port("deaf0")

    host.wait_gone("deaf0")


def test_a_path_that_is_no_option_is_the_ports_and_says_nothing_to_the_switch(host) -> None:
    path = host.directory / "vhu0.sock"
    host.switch.add_port(BRIDGE, "vhu0", f"external_ids:vhost-user-path={path}")
    host.wait_status("vhu0", "connecting")
    assert host.status("vhu0")["socket"] == str(path)
    log = (host.directory / "ovs-vswitchd.log").read_text()
    assert "not configurable" not in log
    host.delete_port("vhu0")
    host.wait_gone("vhu0")


def test_a_row_that_is_no_longer_ours_keeps_no_key_of_ours(host) -> None:
    host.add_client_port("vhu0", None, "external_ids:vhost-user-mode=client")
    host.wait_status("vhu0", "connecting")
    host.switch.vsctl(
        *("remove", "Interface", "vhu0", "options", "vhost-server-path"),
        *("--", "remove", "Interface", "vhu0", "external_ids", "vhost-user-mode"),
        *("--", "set", "Interface", "vhu0", "external_ids:iface-id=theirs"),
    )

    wait_until(lambda: not host.status("vhu0"), "no status")
    wait_until(lambda: not host.leftovers(), "removal")
    assert host.switch.interface("vhu0", "external_ids:iface-id") == "theirs"


def wait_queues(host, **wanted: int) -> None:
    """Wait until the workers have so many queues of their taps: each has asked for 128."""

    def there() -> bool:
        ports = json.loads(host.appctl("vhost/stats", "-f", "json"))["ports"]
        return {name: port["taps"] for name, port in ports.items()} == wanted

    wait_until(there, f"{wanted} queues")
    assert {name: queues_in_kernel(host, name) for name in wanted} == wanted


def queues_in_kernel(host, name: str) -> int:
    shown = json.loads(host.namespace.run("ip", "-d", "-json", "link", "show", name))
    tun = shown[0]["linkinfo"]["info_data"]
    return int(tun.get("numqueues", 0)) + int(tun.get("numdisabled", 0))


def test_a_daemon_that_comes_gives_no_queue_twice(host) -> None:
    host.add_client_port("vhu0", None, "external_ids:vhost-user-queues=3")
    wait_queues(host, vhu0=3)
    host.stop_daemon(kill=True)
    host.start_daemon()
    host.wait_status("vhu0", "connecting")
    wait_queues(host, vhu0=3)


def test_a_change_of_path_or_queues_replaces_the_worker_on_the_same_tap(host) -> None:
    host.add_client_port("vhu0", None, "external_ids:vhost-user-queues=1")
    host.wait_status("vhu0", "connecting")
    ofport, pid = host.wait_ofport("vhu0"), host.worker_pid("vhu0")
    index = host.link("vhu0").partition(":")[0]

    host.switch.vsctl(
        *("set", "Interface", "vhu0", "external_ids:vhost-user-queues=3"),
        f"options:vhost-server-path={host.directory}/other",
    )

    wait_until(lambda: host.worker_pid("vhu0") != pid, "another worker")
    host.wait_status_of("vhu0", lambda status: status.get("socket", "").endswith("/other"))
    host.wait_status("vhu0", "connecting")
    assert host.link("vhu0").partition(":")[0] == index
    assert host.wait_ofport("vhu0") == ofport
    wait_queues(host, vhu0=3)


def test_a_change_of_mtu_or_offloads_reaches_the_running_worker(host) -> None:
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "connecting")
    pid = host.worker_pid("vhu0")

    host.switch.vsctl("set", "Interface", "vhu0", "mtu_request=9000")

    def configured() -> object:
        stats = json.loads(host.appctl("vhost/stats", "vhu0", "--format=json"))
        return stats["ports"]["vhu0"]["configured"]

    def wait_settings(settings: PortSettings) -> None:
        wanted = codec_of(PortSettings).encode(settings)
        wait_until(lambda: configured() == wanted, "configure")

    settings = PortSettings(mtu=9000, finish_offloads=True, hold=True)
    wait_settings(settings)
    host.switch.vsctl("set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
    wait_settings(replace(settings, finish_offloads=False))
    host.switch.vsctl("set", "Interface", "vhu0", "external_ids:vhost-user-announce=hold=off")
    wait_settings(replace(settings, finish_offloads=False, hold=False))
    assert host.worker_pid("vhu0") == pid


def test_a_worker_has_nothing_but_its_own(host) -> None:
    host.add_client_port("vhu0", None, "external_ids:vhost-user-queues=2")
    host.add_client_port("vhu1", None, "external_ids:vhost-user-queues=2")
    host.wait_status("vhu0", "connecting")
    host.wait_status("vhu1", "connecting")

    wait_queues(host, vhu0=2, vhu1=2)
    ports = json.loads(host.appctl("vhost/stats", "-f", "json"))["ports"]

    uids = {port["uid"] for port in ports.values()}
    assert len(uids) == 2 and min(uids) > 0x70000000
    for port in ports.values():
        # The vitals are its standard error; the rest: two queues, the listener, the daemon's
        # connection, and the pipe that leads to the daemon.
        kinds = Counter(link.partition(":")[0] for link in port["fds"].values())
        assert kinds == {"/dev/null": 2, "/memfd": 1, "/dev/net/tun": 2, "socket": 2, "pipe": 1}
        assert port["environment"] == {}
        assert port["sigterm"]
    pid = host.worker_pid("vhu0")
    assert Path(f"/proc/{pid}/comm").read_text() == "vhu0\n"


def test_wrong_rows_are_named_and_cost_nothing(host) -> None:
    long_name = "a-name-of-16-byt"
    host.switch.vsctl(
        *("add-port", BRIDGE, long_name, "--", "set", "Interface", long_name),
        "options:vhost-server-path=/x",
    )
    host.add_client_port("vhu1", Path("/" + "x" * 256))
    host.add_server_port("vhu2", "external_ids:vhost-user-mode=sometimes")
    host.add_client_port("vhu3", None, "external_ids:vhost-user-queues=129")

    for name, error in {
        long_name: "name-too-long",
        "vhu1": "path-too-long",
        "vhu2": "mode-unknown",
        "vhu3": "queues-invalid",
    }.items():
        host.wait_status(name, "error")
        assert host.status(name)["error"].startswith(f"{error}: ")
        assert not host.link(name)
    shown = json.loads(host.appctl("vhost/show", "-f", "json"))
    assert shown["faults"] == {
        "name-too-long": 1,
        "path-too-long": 1,
        "mode-unknown": 1,
        "queues-invalid": 1,
    }
    # Put right, it works.
    host.switch.vsctl("set", "Interface", "vhu3", "external_ids:vhost-user-queues=128")
    host.wait_status("vhu3", "connecting")
    assert "error" not in host.status("vhu3")


def test_a_row_made_wrong_does_not_cut_off_what_runs(host) -> None:
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "connecting")
    pid = host.worker_pid("vhu0")

    host.switch.vsctl("set", "Interface", "vhu0", "external_ids:vhost-user-queues=none")

    status = host.wait_status_of("vhu0", lambda status: "error" in status)
    assert status["error"].startswith("queues-invalid: ")
    assert status["status"] == "connecting"
    assert host.worker_pid("vhu0") == pid


def test_a_foreign_tap_is_named_and_never_touched(host) -> None:
    host.namespace.tap("vhu0")
    before = host.link("vhu0")

    host.add_client_port("vhu0")

    host.wait_status("vhu0", "error")
    assert host.status("vhu0")["error"].startswith("tap-foreign: ")
    host.delete_port("vhu0")
    wait_until(lambda: "vhu0" not in host.appctl("vhost/show"), "port gone")
    assert host.link("vhu0").split()[:2] == before.split()[:2]


def test_a_foreign_tap_that_goes_makes_way(host) -> None:
    host.namespace.tap("vhu0")
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "error")

    host.namespace.run("ip", "link", "del", "vhu0")

    host.wait_status("vhu0", "connecting")
    assert "error" not in host.wait_status_of("vhu0", lambda status: "error" not in status)


def test_a_socket_that_others_serve_is_left_to_them(host) -> None:
    path = host.directory / "vhu1"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        host.add_server_port("vhu1")
        host.wait_status("vhu1", "error")
        assert host.status("vhu1")["error"].startswith("socket-in-use: ")
        assert path.is_socket()
    # The dead socket that is left is in nobody's way.
    host.wait_status("vhu1", "listening")
