# SPDX-License-Identifier: Apache-2.0
"""What `make mutants` prints is of what was tried."""

from bench.mutation_score import scores

RESULTS = """
    ovs_vhost_plugin.announce.rounds.xǁRoundsǁdue__mutmut_2: timeout
    ovs_vhost_plugin.announce.rounds.xǁRoundsǁdue__mutmut_3: killed
    ovs_vhost_plugin.net.vlan.x_tag_of__mutmut_7: survived
    ovs_vhost_plugin.net.vlan.x__leaves__mutmut_6: killed
    ovs_vhost_plugin.net.vlan.x__leaves__mutmut_7: no tests
    ovs_vhost_plugin.net.vlan.x__leaves__mutmut_8: not checked
"""


def test_what_no_test_notices_lowers_the_score_of_its_module() -> None:
    assert scores(RESULTS.splitlines()) == {
        "ovs_vhost_plugin.announce.rounds": (2, 1, 2),
        "ovs_vhost_plugin.net.vlan": (1, 0, 3),
    }
