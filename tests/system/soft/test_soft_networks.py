# SPDX-License-Identifier: Apache-2.0
"""A guest migrates on networks of many kinds, and what is held for it goes through them.

docs/networks.md has the table. The software guest takes 1,000 datagrams a second with ease.
"""

import pytest

from ovs_vhost_plugin.lab.cases import NETWORKS
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.stage import PORT, Stages

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stages(require):
    words = packages.missing(packages.SWITCH, root=False)
    require(words is None, words)
    with Stages(kind="soft") as stages:
        yield stages


@pytest.mark.parametrize(
    "case", [case for case in NETWORKS if not case.tagged], ids=lambda case: case.name
)
def test_a_migration(stages, capsys, case):
    source = stages.source(case)
    forwarded = -source.stats(PORT)["hold"].get("forwarded", 0)
    report = stages.play(case)
    forwarded += source.stats(PORT)["hold"].get("forwarded", 0)
    with capsys.disabled():
        print(
            f"\n{case.name}: {report.sent} sent, {report.lost} lost ({report.unseen} by the test "
            f"network, of which {report.congested} by full sockets, {report.overrun} by a slow "
            f"guest), {forwarded} forwarded"
        )
    assert report.damaged == report.duplicated == 0
    assert report.found
    assert report.unseen <= report.lost <= report.unseen + report.overrun
    if case.rstp:  # the network goes to the old host until the new one's port forwards
        assert forwarded > case.rate
        destination = stages.source(case)
        learned = [e for e in destination.announcements() if e["outcome"] == "learned"]
        assert "port-forwards" in {entry["trigger"] for entry in learned}
