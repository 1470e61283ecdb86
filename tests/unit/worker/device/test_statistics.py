# SPDX-License-Identifier: Apache-2.0
"""The statistics of any port fit into a packet, and the daemon reads out of it what was counted."""

import errno
import json

from ovs_vhost_plugin.ipc import reports
from ovs_vhost_plugin.ipc.channel import MAX_PACKET
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost.errors import PeerErrorName
from ovs_vhost_plugin.worker.device import statistics
from ovs_vhost_plugin.worker.device.queuepair import QueuePair

MOST = 2**64 - 1
PAIRS = 128


def counters(count: int) -> dict[str, int]:
    """As `QueuePair.counters` has them."""
    names = [*(layout.COUNTERS_DTYPE.names or ()), "learned_replaced"]
    faults = [f"fault_{fault.name.lower()}" for fault in Fault]
    return dict.fromkeys([*names, *faults], count)


def fill() -> dict[str, int]:
    """As `QueuePair.fill` has it, of the largest rings."""
    return {f"{ring}_ring_{what}": 32768 for ring in ("rx", "tx") for what in ("size", "filled")}


def test_the_counters_here_are_a_queue_pairs() -> None:
    pair = QueuePair(0, tap_fd=-1)
    assert pair.counters.keys() <= counters(0).keys()
    assert counters(0).keys() - pair.counters.keys() == {f"fault_{f.name.lower()}" for f in Fault}
    assert pair.fill == dict.fromkeys(fill(), 0)
    pair.close()


def test_128_pairs_with_the_largest_numbers_and_every_error_fit_into_a_packet() -> None:
    ips = [f"255.255.255.{n}" for n in range(8)]
    long_ips = [f"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff{n}" for n in range(8)]
    station = {"mac": "52:54:00:00:00:01", "vlan": 4094, "router": False}
    errors = [*PeerErrorName, *(fault.kebab for fault in Fault)]
    errors += [f"inject-{number}" for number in errno.errorcode]
    stats = {
        "status": "connecting",
        "connections": MOST,
        "rarps": MOST,
        "postcopy": "x" * 200,
        "hold": {f"dropped_for_reason_{n}": MOST for n in range(20)},
        "errors": dict.fromkeys(errors, MOST),
        "iotlb_misses": MOST,
        "iotlb_replaced": MOST,
        "addresses": [{**station, "ipv4": ips, "ipv6": long_ips}] * 64,
        **statistics.of_pairs([counters(MOST) | fill()] * PAIRS),
    }
    packet = json.dumps(reports.encode(reports.Stats(2**53, stats)), separators=(",", ":"))
    assert len(packet) <= MAX_PACKET


def test_what_the_daemon_reads_is_what_was_counted() -> None:
    pairs = [
        {"rx_packets": 1, "tx_packets": 2, "fault_zero_length": 3},
        {"rx_packets": 4, "tx_packets": 5, "fault_zero_length": 6, "fault_csum_outside_frame": 7},
    ]
    report = reports.decode(reports.encode(reports.Stats(1, statistics.of_pairs(pairs))))
    assert isinstance(report, reports.Stats)
    assert report.stats["queue_pairs"] == [
        {"rx_packets": 1, "tx_packets": 2},
        {"rx_packets": 4, "tx_packets": 5},
    ]
    assert report.stats["faults"] == {"zero-length": 9, "csum-outside-frame": 7}
