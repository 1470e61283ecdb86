# SPDX-License-Identifier: Apache-2.0
import pytest

from ovs_vhost_plugin.lab.platform import versions
from ovs_vhost_plugin.lab.process import LabError


@pytest.mark.parametrize(
    ("words", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright …\n", (7, 2)),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\n", (10, 0)),
        ("ovs-vswitchd (Open vSwitch) 3.1.0\n", (3, 1)),
        ("ovn-northd 25.03.0\nOpen vSwitch Library 3.5.0\n", (25, 3)),
    ],
)
def test_versions_are_compared_as_numbers(words, version):
    assert versions.parse(words) == version


def test_a_program_that_says_no_version_is_an_error():
    with pytest.raises(LabError, match="no version in: hello"):
        versions.parse("hello\n")
