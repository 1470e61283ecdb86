# SPDX-License-Identifier: Apache-2.0
"""How long a port's fault is told, and when the port is tried again."""

from ovs_vhost_plugin.daemon.port_faults import PortFaults
from ovs_vhost_plugin.daemon.reconcile import FIRST_TRY

OBSTACLE, CRASH = "tap-foreign: it is not ours", "worker-sigsegv: it died"


def test_an_obstacle_is_told_until_a_worker_runs_and_a_crash_until_a_guest_is_here() -> None:
    faults = PortFaults()
    faults.note("vhu0", OBSTACLE, 1.0)
    faults.worker_came("vhu0")
    assert faults.of("vhu0") == ""
    faults.note("vhu0", CRASH, 2.0, crash=True)
    faults.worker_came("vhu0")
    assert faults.of("vhu0") == CRASH
    faults.guest_came("vhu0")
    assert faults.of("vhu0") == "" and faults.of("vhu1") == ""
    assert faults.counters == {"tap-foreign": 1, "worker-sigsegv": 1}


def test_a_port_is_tried_ever_later_until_it_is_forgotten() -> None:
    faults = PortFaults()
    waits = []
    for now in (10.0, 100.0, 1000.0):
        faults.note("vhu0", OBSTACLE, now)
        waits.append(faults.retry_at("vhu0") - now)
    assert 0 < waits[0] < waits[1] < waits[2]
    faults.forget("vhu0")
    assert faults.retry_at("vhu0") == FIRST_TRY.retry_at and faults.of("vhu0") == ""


def test_who_lets_all_ports_go_has_counted_all_the_same() -> None:
    faults = PortFaults()
    faults.note("vhu0", OBSTACLE, 1.0)
    faults.clear()
    assert faults.of("vhu0") == "" and faults.counters == {"tap-foreign": 1}
