# SPDX-License-Identifier: Apache-2.0
"""What metrics there are, as a collector of theirs reads them."""

from typing import Any

import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from support.metrics_page import COUNTERS, RINGS, daemon, names_of_dashboard, port, samples

from ovs_vhost_plugin.metrics import families


class Values:
    def __init__(self, daemon: Any, *ports: Any) -> None:
        self.daemon, self.ports = daemon, {one["port"]: one for one in ports}

    def collect(self) -> Any:
        return families.families(self.daemon, self.ports)


def page(*ports: Any, **changes: Any) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Values(daemon(**changes), *ports))  # type: ignore[arg-type]
    text: bytes = generate_latest(registry)
    return text.decode()


def test_counters_of_the_data_path() -> None:
    found = samples(page(port()))
    assert found["ovs_vhost_port_receive_packets_total", ("vhu0",)] == 11
    assert found["ovs_vhost_port_transmit_bytes_total", ("vhu0",)] == 11
    assert found["ovs_vhost_port_receive_dropped_packets_total", ("vhu0", "no-buffers")] == 11
    assert found["ovs_vhost_port_kicks_total", ("vhu0", "tx")] == 11


def test_how_full_the_rings_are() -> None:
    found = samples(page(port()))
    told = {
        (kind, ring): found[f"ovs_vhost_port_ring_{kind}_entries", ("vhu0", ring)]
        for kind in ("size", "filled")
        for ring in ("rx", "tx")
    }
    assert told == {
        ("size", "rx"): 512,
        ("filled", "rx"): 500,
        ("size", "tx"): 512,
        ("filled", "tx"): 3,
    }


def test_what_stats_tell_otherwise() -> None:
    found = samples(page(port()))
    for name, labels, value in (
        ("port_connections_total", ("vhu0",), 1),
        ("port_send_rarp_total", ("vhu0",), 2),
        ("port_iotlb_misses_total", ("vhu0",), 7),
        ("port_errors_total", ("vhu0", "header-version"), 3),
        ("port_faults_total", ("vhu0", "zero-length"), 6),
        ("port_held_packets", ("vhu0",), 5),
        ("port_hold_packets_total", ("vhu0", "held"), 9),
        ("port_hold_packets_total", ("vhu0", "dropped-other-guest"), 4),
        ("port_stations", ("vhu0",), 2),
        ("port_running", ("vhu0",), 1),
        ("port_info", ("vhu0", "br0", "client", "running"), 1),
        ("build_info", ("0.1.0",), 1),
        ("serving", (), 1),
        ("faults_total", ("worker-stuck",), 1),
        ("announcements_total", ("learned",), 2),
        ("forwarding_total", ("holds",), 1),
    ):
        assert found[f"ovs_vhost_{name}", labels] == value, name


def test_histograms_add_up_and_end_with_all() -> None:
    found = samples(page())
    name = "ovs_vhost_announcement_duration_seconds"
    assert found[f"{name}_bucket", ("send-rarp", "0.001")] == 0
    assert found[f"{name}_bucket", ("send-rarp", "0.0025")] == 1
    assert found[f"{name}_bucket", ("send-rarp", "10.0")] == 2
    assert found[f"{name}_bucket", ("send-rarp", "+Inf")] == 3
    assert found[f"{name}_count", ("send-rarp",)] == 3
    assert found[f"{name}_sum", ("send-rarp",)] == pytest.approx(60.2015)
    assert found["ovs_vhost_migration_outage_seconds_count", ("comes",)] == 0


def test_each_counter_of_the_data_path_is_told() -> None:
    told = {counter for _, _, counter, _ in families._SUMS}
    told |= {counter for _, _, counters, _ in families._SPLIT for counter in counters}
    assert told == set(COUNTERS)
    assert {state for _, states, _ in families._RINGS for state in states} == set(RINGS)


def test_a_port_whose_worker_does_not_answer_is_told_of_all_the_same() -> None:
    found = samples(page(port(), port("vhu1", stats=None, status="starting")))
    assert found["ovs_vhost_port_answered", ("vhu1",)] == 0
    assert found["ovs_vhost_port_running", ("vhu1",)] == 0
    assert ("ovs_vhost_port_receive_packets_total", ("vhu1",)) not in found


def test_any_name_is_a_label() -> None:
    odd = 'a"b\\c\nd{}é'
    found = samples(page(port(odd, bridge=odd)))
    assert found["ovs_vhost_port_info", (odd, odd, "client", "running")] == 1


def test_a_worker_that_invents_names_has_few() -> None:
    invented = port()
    invented["stats"] |= {"errors": {f"e{n}": 1 for n in range(1000)}, "hold": {"held": "x"}}
    found = [name for name, _ in samples(page(invented))]
    assert found.count("ovs_vhost_port_errors_total") == families.MOST_NAMES
    assert "ovs_vhost_port_hold_packets_total" not in found


def test_names_and_units_are_by_the_conventions() -> None:
    for family in families.families(daemon(), {"vhu0": port()}):
        assert family.name.startswith("ovs_vhost_") and family.documentation.endswith(".")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
        if family.unit:
            assert family.name.endswith(f"_{family.unit}")
            assert family.unit in ("bytes", "seconds")


def test_the_dashboard_asks_for_what_there_is() -> None:
    there = {name for name, _ in samples(page(port()))}
    wanted = names_of_dashboard()
    assert len(wanted) > 10 and wanted - there == set()
