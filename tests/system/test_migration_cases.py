# SPDX-License-Identifier: Apache-2.0
"""Each case of the migration matrix once: where frames may be lost, and where none may.

Cases whose guests differ in nothing that is settled at boot are played one after the other by the
same guest, there and back. What the test network itself loses is told apart, and so is what an
emulated guest does not take when the machine is busy: `lost` is the product's but for these.
"""

from collections.abc import Iterator

import pytest

from ovs_vhost_plugin.lab.cases import CASES, NETWORKS, Case
from ovs_vhost_plugin.lab.measure.timeline import Report
from ovs_vhost_plugin.lab.stage import PORT, Stages

pytestmark = pytest.mark.system


KEEPS_UP = 2_000
"""Datagrams a second that an emulated guest takes also where two processors do other work."""


@pytest.fixture(scope="module")
def stages(qemu_programs) -> Iterator[Stages]:
    with Stages() as stages:
        yield stages


def one_line(case: Case, report: Report) -> str:
    beyond = report.outage_ms - report.downtime_ms
    return (
        f"\n{case.name}: {report.sent} sent, {report.lost} lost ({report.unseen} by the test "
        f"network, {report.overrun} by a slow guest), {report.reordered} overtaken, outage "
        f"{report.outage_ms:.1f} ms, {beyond:.1f} ms beyond the downtime, longest delay "
        f"{report.delay_ms:.1f} ms, learned in {report.learned_ms or 0:.1f} ms"
    )


OURS = [
    *(case for case in CASES if case.backend == "ovs-vhost"),
    # The others of NETWORKS are a software guest's: tests/system/soft/test_soft_networks.py
    *(case for case in NETWORKS if case.tagged),
]


@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_a_migration(stages, capsys, case):
    source = stages.source(case)
    forwarded = -source.stats(PORT)["hold"].get("forwarded", 0)
    report = stages.play(case)
    with capsys.disabled():
        print(one_line(case, report))
    assert report.damaged == report.duplicated == 0
    assert report.found == case.found
    if case.whole:
        assert report.unseen <= report.lost
        # At more than that the emulated guest loses some in its own socket, which nobody counts.
        # The compiled guest is held to each frame: tests/system/soft/test_soft_compiled.py
        assert report.lost <= report.unseen + report.overrun or case.rate > KEEPS_UP
        forwarded += source.stats(PORT)["hold"]["forwarded"]
        # Those that were held come in order, after the first that found the new place.
        assert report.reordered <= forwarded
