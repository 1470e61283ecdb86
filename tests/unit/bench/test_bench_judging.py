# SPDX-License-Identifier: Apache-2.0
"""`make bench`: what the benchmarks print becomes rows with goals, and none stops the others."""

import io
from typing import Any

import pytest
from rich.console import Console

from ovs_vhost_plugin.bench import command as bench
from ovs_vhost_plugin.bench import judging
from ovs_vhost_plugin.bench.command import Part
from ovs_vhost_plugin.bench.judging import BenchRow
from ovs_vhost_plugin.lab.platform.packages import Program


def cell(ratio: float) -> dict[str, Any]:
    layout = {"layout": "split 256", "length": 64, "direction": "send"}
    return layout | {"ratio": ratio, "lowest": ratio - 0.1, "highest": ratio + 0.1}


def test_each_cell_of_the_rings_has_a_goal_and_their_median_another() -> None:
    *cells, median = judging.rings([cell(0.9), cell(1.0), cell(1.2)])
    assert [row.met for row in cells] == [False, True, True]
    assert cells[0].what == "rings: split 256, 64 bytes, guest sends"
    assert (median.figure, median.met) == (1.0, False)
    assert list(judging.rings([])) == []


def test_only_the_full_bursts_of_the_tap_are_shown() -> None:
    ratio = {"singly": 2000.0, "io_uring": 1500.0, "ratio": 1.33, "least": 1.2, "most": 1.4}
    written = [
        {"length": 64, "burst": burst, "listener": listener, "ratio": ratio}
        for burst in (1, 32)
        for listener in (False, True)
    ]
    (row,) = judging.tap({"written": written})
    assert (row.figure, row.spread, row.met) == (1.33, (1.2, 1.4), None)


@pytest.mark.parametrize(("io_uring", "met"), [(True, [False, True]), (False, [True, None])])
def test_a_whole_port_has_other_goals_where_an_io_uring_pays(
    io_uring: bool, met: list[bool | None]
) -> None:
    where = {"direction": "guest to tap", "length": 64, "queues": 2, "io_uring": io_uring}
    figures = {"ratio": 1.2, "lowest": 1.1, "highest": 1.3}
    per_cpu = {"per_cpu": 1.25, "per_cpu_lowest": 1.0, "per_cpu_highest": 1.5}
    rows = list(judging.port({"results": [where | figures | per_cpu]}))
    assert [row.met for row in rows] == met
    assert [row.spread for row in rows] == [(1.1, 1.3), (1.0, 1.5)]


def test_tcp_is_judged_beside_each_peer() -> None:
    ratios = {"veth": [0.8, 0.7, 0.9], "ovs-dpdk": [2, 1, 3], "QEMU's tap": [1.1, 1, 2]}
    one = {"direction": "to the guest", "ratios": ratios}
    with_tso, without = one | {"tso": True}, one | {"tso": False}
    rows = list(judging.tcp({"results": [with_tso, without]}))
    assert [(row.peer, row.met) for row in rows] == [
        ("veth", True),
        ("ovs-dpdk", False),
        ("QEMU's tap", False),
        ("veth", None),
        ("ovs-dpdk", True),
        ("QEMU's tap", False),
    ]
    assert rows[2].what == "TCP with TSO, to the emulated guest"


def test_less_latency_is_better_and_only_that_of_qemus_tap_is_a_goal() -> None:
    figures = {"p50_us": 100.0, "p99_us": 200.0}
    ratios = {"p50_ratio": [0.9, 0.8, 1.0], "p99_ratio": [1.2, 1.0, 1.4]}
    ours = {"peer": "QEMU on ovs-vhost", "beside": None} | figures
    results = [
        ours,
        {"peer": "QEMU's tap", "beside": "QEMU on ovs-vhost"} | figures | ratios,
        {"peer": "veth", "beside": "ovs-vhost"} | figures | ratios,
    ]
    rows = list(judging.latency({"results": results}))
    assert [row.met for row in rows] == [None, None, True, False, None, None]
    assert [row.unit for row in rows[:3]] == ["µs", "µs", "of its time"]


def test_vms_of_one_bridge_have_no_goal_and_a_row_for_each_second() -> None:
    ratios = {"rate_ratio": [0.5, 0.4, 0.6], "per_cpu_ratio": [0.7, 0.6, 0.8]}
    one = {"kind": "TCP", "ours": "ovs-vhost", "peer": "ovs-dpdk"} | ratios
    rows = list(judging.vms({"results": [one]}))
    assert [(row.figure, row.spread, row.met) for row in rows] == [
        (0.5, (0.4, 0.6), None),
        (0.7, (0.6, 0.8), None),
    ]


def test_the_worst_migration_at_a_rate_counts_and_a_peers_has_no_goal() -> None:
    results = [
        {"backend": backend, "rate": 1000, "lost": lost}
        for backend, lost in (("ovs-vhost", 0), ("ovs-vhost", 2), ("ovs-dpdk", 9))
    ]
    ours, theirs = judging.moves({"results": results})
    assert (ours.figure, ours.met, ours.goal) == (2, False, "<= 0")
    assert (theirs.figure, theirs.met, theirs.goal) == (9, None, "")


def test_announcements_have_a_goal_for_the_median_and_one_for_the_slowest() -> None:
    learned = {"learned": {"times": 9, "median_ms": 1.2, "p99_ms": 3.5, "worst_ms": 4.0}}
    rows = list(judging.announcements({"results": {"ovs-vhost": learned, "ovs-dpdk": learned}}))
    assert [row.met for row in rows] == [True, False, None, None]


def test_what_explains_a_figure_of_many_ports_is_left_out() -> None:
    shown = {"what": "added", "measured": 25.0, "unit": "s", "goal": 30.0}
    explains = {"what": "  of that", "measured": 1.0, "unit": "s", "goal": None}
    (row,) = judging.scale({"results": [shown, explains]})
    assert (row.what, row.met) == ("added", True)


def test_a_benchmark_that_cannot_run_is_left_out_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No such module: Python says so and ends with status 1.
    broken = Part("rings.bench_that_is_not_there", judging.rings)
    monkeypatch.setattr(bench, "PARTS", {"broken": broken})
    skipped: dict[str, str] = {}
    screen = Console(file=io.StringIO())
    assert list(bench.all_rows(["broken"], skipped, screen, quick=True)) == []
    assert "bench_that_is_not_there" in skipped["broken"]


def test_a_benchmark_whose_programs_are_not_installed_is_left_out_at_once() -> None:
    absent = Part("tap.bench_tap", judging.tap, (Program("no-such-program", "its-package"),))
    with pytest.raises(bench.LeftOutError, match="its-package"):
        bench.measure(absent, {}, Console(file=io.StringIO()), quick=True)


def test_what_is_left_out_is_told_behind_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    bench.show([BenchRow("good", 1.5)], {"veth": "not here [at all]"})
    assert capsys.readouterr().out.splitlines()[-1] == "veth is left out: not here [at all]"


def test_the_table_shows_verdict_and_goal_of_each_row() -> None:
    rows = [
        BenchRow("good", 1.5, least=1.0, spread=(1.4, 1.6), peer="them"),
        BenchRow("bad", 12345, "ms", most=3),
    ]
    shown = io.StringIO()
    Console(file=shown, width=100).print(bench.table(rows))
    good, bad = (line for line in shown.getvalue().splitlines() if "good" in line or "bad" in line)
    assert "1.40–1.60" in good and ">= 1" in good and " met " in good
    assert "12,345" in bad and "<= 3" in bad and "missed" in bad
