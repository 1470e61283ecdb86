# SPDX-License-Identifier: Apache-2.0
"""80 columns: nothing is cut that matters, whatever the numbers and names are."""

import io

import pytest
from rich.console import Console
from unit.top.test_top_model import answer

from ovs_vhost_plugin.top import picture
from ovs_vhost_plugin.top.figures import in_short
from ovs_vhost_plugin.top.model import LivePorts
from ovs_vhost_plugin.top.screen import screen
from ovs_vhost_plugin.top.view import View

LONGEST = "p23456789012345"  # IFNAMSIZ, with its NUL
RINGS = {"rx_ring_size": 256, "rx_ring_filled": 256, "tx_ring_size": 256, "tx_ring_filled": 26}
TROUBLE = (
    "the daemon is not running; start it with 'systemctl start ovs-vhost' "
    "or 'ovs-vhost daemon --detach' (OVS_RUNDIR names its run directory)"
)


def lines(ports: LivePorts, view: View, width: int = 80, height: int = 24, trouble: str = ""):
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    console.print(screen(ports, view, width, height, trouble)[0])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def busy(count: int = 1, status: str = "connecting") -> LivePorts:
    """Ports with the widest numbers; the later ones carry less."""
    counters = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "tx_kicks", "wakeups")
    ports = LivePorts()
    for second in (0, 1):
        stats = {
            LONGEST if n == 0 else f"p{n}": {
                **dict.fromkeys(counters, second * (123456789 - n)),
                "rx_dropped_no_buffers": second * 12_345,
                **RINGS,
            }
            for n in range(count)
        }
        told = answer(float(second), stats)
        for port in told["ports"].values():
            port["status"] = status
        ports.take(told)
    return ports


def test_the_widest_row_is_whole_in_80_columns() -> None:
    shown = lines(busy(), View())
    assert max(map(len, shown)) <= 80
    row = next(line for line in shown if line.startswith(LONGEST))
    assert row.split() == [
        *(LONGEST, "connecting", "123M", "988M", "123M", "988M", "12.3k"),
        *("100", "10", "123M", "123M"),
    ]
    assert shown[1].split() == [
        *("port", "status", "rx", "pkt", "rx", "bit", "tx", "pkt", "tx", "bit", "drops"),
        *("rx%", "tx%", "kicks", "wakes"),
    ]


def test_a_thousand_ports_fill_the_screen_with_the_busiest_and_no_more() -> None:
    ports = busy(1000, "running")
    for height in (5, 24, 60):
        shown = lines(ports, View(), height=height)
        assert len(shown) == height
        assert "1000 ports, 1000 running" in shown[0] and "…" not in shown[0]
        assert shown[2].startswith(LONGEST) and shown[-1].startswith("by bits")
        _, names = screen(ports, View(), 80, height)
        assert names == [LONGEST, *(f"p{n}" for n in range(1, height - 3))]


def test_what_to_do_without_a_daemon_is_not_cut() -> None:
    shown = lines(busy(), View(), trouble=TROUBLE)
    assert TROUBLE in " ".join(shown) and len(shown) == 24


def test_a_daemon_that_does_not_serve_says_so() -> None:
    ports = LivePorts()
    ports.take(answer(0.0, {}, "vhu0"))
    assert "another" not in "\n".join(lines(ports, View()))
    ports.take({**answer(1.0, {}, "vhu0"), "standing": "another daemon serves this database"})
    assert lines(ports, View())[-2] == "another daemon serves this database"


def test_a_port_without_counters_has_dashes() -> None:
    ports = LivePorts()
    ports.take(answer(0.0, {}, "vhu0"))
    row = next(line for line in lines(ports, View()) if line.startswith("vhu0"))
    assert set(row.split()[2:]) == {"-"}
    assert "has not told" in "\n".join(lines(ports, View(selected="vhu0", detail=True)))


def test_events_are_below_the_table_where_there_is_room_and_cut_at_the_edge() -> None:
    told = {
        "port": "vhu0",
        "mac": "52:54:00:00:00:01",
        "outcome": "failed: " + "x" * 80,
        "trigger": "manual",
        "received_at": 1.0,
        "sent_at": None,
        "learned_at": None,
        "milliseconds": None,
    }
    ports = LivePorts()
    ports.take(answer(3.5, {}, "vhu0", announcements=[told]))
    shown = lines(ports, View())
    assert shown[-2].startswith("  2.5 s ago  vhu0: 52:54:00:00:00:01 failed: xxx")
    assert len(shown[-2]) == 80 and len(shown) == 24
    assert "s ago" not in "\n".join(lines(ports, View(), height=10))


def test_the_filter_is_shown_while_it_is_typed_and_afterwards() -> None:
    ports = busy(2)
    assert lines(ports, View(typed="p1"))[-1].startswith("filter: p1_   1 ports")
    assert lines(ports, View(filter="p1"))[-1].startswith("by bits, 1 with p1")


def test_one_port_in_detail() -> None:
    ports = LivePorts()
    for second in (0, 2):
        told = answer(
            float(second), {"vhu0": {"rx_packets": 10 * second, "tx_packets": 0, **RINGS}}
        )
        told["stats"]["vhu0"] |= {
            "faults": {"zero-length": 3},
            "errors": {},
            "hold": {"waiting": 2, "held": 0},
            "addresses": [
                {"mac": "52:54:00:00:00:01", "vlan": 7, "ipv4": ["10.0.0.1"], "ipv6": []}
            ],
        }
        told["ports"]["vhu0"]["error"] = "socket-refused: \x1b[2J"
        ports.take(told)
    shown = lines(ports, View(selected="vhu0", detail=True))
    assert shown[:2] == ["vhu0 on br0: running", r"socket-refused: \x1b[2J"]
    assert ["rx_packets", "10", "20"] in [line.split() for line in shown]
    assert not any("tx_packets" in line for line in shown), "nothing of it was counted"
    text = "\n".join(shown)
    for words in (
        "rx ring: 256 of 256",
        "tx ring: 26 of 256",
        "faults: zero-length 3",
        "held: waiting 2",
        "guest 52:54:00:00:00:01 vlan 7 10.0.0.1",
    ):
        assert words in text
    assert screen(ports, View(selected="vhu0", detail=True), 80, 24)[1] == ["vhu0"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.5, "0.5"),
        (9.96, "10"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (9_996, "10.0k"),
        (99_960, "100k"),
        (999_600, "1.00M"),
        (12_345_678_901, "12.3G"),
    ],
)
def test_numbers_take_five_characters(value: float | None, text: str) -> None:
    assert in_short(value) == text and len(text) <= 5


def test_the_picture_of_the_docs_has_all_columns_and_asks_nobody_for_fonts() -> None:
    made = picture.svg()
    assert "leaving" in made and "wakes" in made
    assert "font-face" not in made and "…" not in made
