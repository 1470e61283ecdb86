# SPDX-License-Identifier: Apache-2.0
"""A front-end that connects and errs all day does not fill the disk with the daemon's log."""

import re
import socket
import struct
from pathlib import Path

import pytest

from ovs_vhost_plugin.common.logs.rates import BURST
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

DROPPED = re.compile(r"storm0: Dropped (\d+) log messages in last \d+ seconds \(most recently, ")
WRONG = struct.pack("=3I", 0xFFFF, 1, 0)
"""A request of vhost-user that does not exist."""


def err(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as front_end:
        front_end.settimeout(10.0)
        front_end.connect(str(path))
        front_end.send(WRONG)
        front_end.recv(1)  # the worker ends the connection


def lines(host: Host) -> list[str]:
    return [line for line in host.log.read_text().splitlines() if "storm0: " in line]


def test_a_storm_is_cut_short_and_the_log_says_how_many_lines_it_lacks(host: Host) -> None:
    path = host.add_server_port("storm0")
    host.wait_status("storm0", "listening")
    made = 0

    def told() -> bool:
        nonlocal made
        err(path)
        made += 1
        return any(DROPPED.search(line) for line in lines(host))

    wait_until(told, "a word on the lines that were dropped")
    # The worker tells the daemon twice a second at most; the counts say what there was.
    assert sum(host.stats("storm0")["errors"].values()) == made
    found = lines(host)
    for level, kind in (("INFO", "connected|listening"), ("WARN", "errors so far")):
        of_kind = [line for line in found if level in line and re.search(kind, line)]
        own = [line for line in of_kind if "Dropped" not in line]
        assert len(own) <= BURST + 3, own  # from the start on, and one in ten seconds
    dropped = [int(match[1]) for line in found if (match := DROPPED.search(line))]
    assert all(number > 0 for number in dropped)

    host.delete_port("storm0")

    wait_until(lambda: lines(host)[-1].endswith("storm0: removed"), "its end, which is told")
