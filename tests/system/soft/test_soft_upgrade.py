# SPDX-License-Identifier: Apache-2.0
"""A port goes from one worker to the next while its guest runs: no frame is lost or comes twice."""

import json
import os
import signal

import pytest
from support.system.numbered_traffic import WholeTraffic
from support.system.soft_ports import check_inward, check_outward, frame_of, settle

from ovs_vhost_plugin.guest.frontend.dirtylog import DirtyBitmap
from ovs_vhost_plugin.guest.frontend.frontend import PROTOCOL_FEATURES
from ovs_vhost_plugin.guest.frontend.inflight import InflightKeeper
from ovs_vhost_plugin.guest.migrate import unlogged_pages
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.lab.process import PATIENCE, wait_until
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature

pytestmark = pytest.mark.system

PACKED = FEATURES | Feature.RING_PACKED.mask
KEPT = ProtocolFeature.INFLIGHT_SHMFD.mask
SIZES = (60, 600, 1514)


def upgrade(port):
    """Have the port's worker replaced; return what became of it."""
    answer = json.loads(port.host.appctl("vhost/upgrade", port.name, "--format", "json"))
    return answer["ports"][port.name]


def start_with_region(port, guest, features, size):
    """Start the guest's rings anew, with an in-flight region."""
    bases = guest.stop_rings()
    guest.frontend.close()
    guest.frontend = guest.connect()
    guest.frontend.initialise(PROTOCOL_FEATURES | KEPT)
    guest.frontend.set_features(features)
    keeper = InflightKeeper(guest.frontend.connection, len(guest.vrings), size)
    keeper.give(guest.frontend.connection)
    guest.run_on(guest.frontend, bases)
    settle(guest)
    port.wait_carrier()
    return keeper


@pytest.mark.parametrize("features", [FEATURES, PACKED], ids=["split", "packed"])
def test_no_frame_is_lost_or_comes_twice(port, features):
    guest = port.guest(Config(features=features, size=128))
    keeper = start_with_region(port, guest, features, 128)
    log = DirtyBitmap(guest.memory)
    try:
        guest.frontend.start_logging(log, guest.vrings)
        settle(guest)
        log.harvest()
        before = guest.memory.snapshot()
        guest.memory.written.clear()
        pids, carriers = [port.pid], port.carrier_changes
        counted = port.counters()
        with WholeTraffic(port, guest) as traffic:
            for _ in range(4):
                traffic.wait_for_more(300)
                assert upgrade(port).startswith("upgraded"), port.host.log.read_text()[-2000:]
                pids.append(port.pid)
            traffic.wait_for_more(300)
        assert traffic.inward.in_order and traffic.outward.in_order
        assert len(set(pids)) == 5
        assert port.carrier_changes == carriers, "the link does not drop"
        assert port.host.status(port.name)["status"] == "running"
        assert (
            unlogged_pages(before, guest.memory.snapshot(), log.logged() | guest.memory.written)
            == []
        )
        now = port.counters()
        assert now["tx_packets"] >= counted["tx_packets"] + len(traffic.outward.sent)
        assert now["rx_packets"] >= counted["rx_packets"] + len(traffic.inward.sent)
        assert port.errors() == {}
        assert port.stats()["connections"] == 2
    finally:
        log.close()
        keeper.close()


def test_a_worker_that_is_replaced_serves_the_next_front_end_too(port):
    guest = port.guest(Config())
    check_outward(port, guest, SIZES)
    assert upgrade(port).startswith("upgraded")
    check_inward(port, guest, SIZES)
    guest.start()  # hangs up, and connects anew to the same listener
    settle(guest)
    port.wait_carrier()
    check_outward(port, guest, SIZES)
    check_inward(port, guest, SIZES)


def test_a_successor_that_is_killed_is_replaced_as_any_worker(port):
    guest = port.guest(Config())
    assert upgrade(port).startswith("upgraded")
    pid = port.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: port.pid != pid, "another worker")
    port.host.wait_status(port.name, "listening")
    guest.start()
    settle(guest)
    port.wait_carrier()
    check_outward(port, guest, SIZES)
    faults = json.loads(port.host.appctl("vhost/show", "--format", "json"))["faults"]
    assert faults.get("worker-sigkill"), "its end was told by the fork server"


def test_a_port_without_a_front_end_is_handed_over_and_takes_one(port):
    pid = port.pid
    assert upgrade(port).startswith("upgraded")
    assert port.pid != pid
    guest = port.guest(Config())
    check_outward(port, guest, SIZES)
    check_inward(port, guest, SIZES)


def test_several_queue_pairs(plug):
    port = plug(queues=4)
    guest = port.guest(Config(queue_pairs=4, features=FEATURES))
    check_inward(port, guest, SIZES)
    assert upgrade(port).startswith("upgraded")
    check_inward(port, guest, SIZES)
    for queue in range(4):
        guest.send(frame_of(100, outward=True), queue=queue)
    guest.drain()
    assert [pair["tx_packets"] for pair in port.stats()["queue_pairs"]] == [1] * 4


EARLIER = """
import ovs_vhost_plugin.common.build

ovs_vhost_plugin.common.build.of_this_code = lambda: "0.0-earlier"
"""


@pytest.fixture
def of_another_build(soft_host, tmp_path):
    """The host's daemon is one of another build; `call` it to have the next one of this build."""
    (tmp_path / "sitecustomize.py").write_text(EARLIER)
    path = os.pathsep.join([str(tmp_path), str(soft_host.code)])

    def restart(environment):
        soft_host.stop_daemon()
        soft_host.environment = environment
        soft_host.start_daemon()

    restart({"PYTHONPATH": path})
    yield lambda: restart({})
    restart({})


def shown(port):
    """The worker as `vhost/show` has it; {} while the daemon does not know it."""
    ports = json.loads(port.host.appctl("vhost/show", "--format", "json"))["ports"]
    return next((one["worker"] for one in ports if one["name"] == port.name), None) or {}


def test_after_a_restart_the_daemon_replaces_workers_by_itself(of_another_build, plug):
    port = plug()
    guest = port.guest(Config())
    assert shown(port)["build"] == "0.0-earlier"
    pid, changes = port.pid, port.carrier_changes
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more(100)
        of_another_build()
        wait_until(lambda: port.pid != pid and shown(port).get("outdated") == "", "another worker")
        traffic.wait_for_more(100)
    assert traffic.inward.in_order and traffic.outward.in_order
    assert port.carrier_changes == changes
    assert not shown(port)["build"].startswith("0.0-earlier")


@pytest.mark.parametrize("moment", ["the next one is born", "the next one serves"])
def test_a_daemon_that_is_killed_in_a_handover_changes_nothing_for_the_guest(port, moment):
    guest = port.guest(Config())
    pid, state = port.pid, port.host.directory / "ovs-vhost"
    with WholeTraffic(port, guest) as traffic:
        traffic.wait_for_more(100)
        asking = port.host.namespace.start(
            ["ovs-appctl", "-t", "ovs-vhost", "vhost/upgrade", port.name],
            port.host.directory / "upgrade.out",
            env=port.host.switch.env,
        )
        if moment == "the next one is born":
            wait_until(lambda: (state / f"{port.name}.next").exists() or port.pid != pid, "it")
        else:
            wait_until(lambda: port.pid != pid, "the next worker")
        port.host.stop_daemon(kill=True)
        asking.wait(PATIENCE)
        port.host.start_daemon()
        wait_until(lambda: shown(port).get("phase") == "running", "the worker's adoption")
        traffic.wait_for_more(100)
    assert traffic.inward.in_order and traffic.outward.in_order
    assert upgrade(port).startswith("upgraded")
    check_outward(port, guest, SIZES)
    check_inward(port, guest, SIZES)
