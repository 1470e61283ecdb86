# SPDX-License-Identifier: Apache-2.0
"""docs/uml.md says what the system test runs."""

import re
import shlex

from support.checkout import TOP

from ovs_vhost_plugin.lab.guests import uml

PAGE = (TOP / "docs/uml.md").read_text()


def commands():
    page = PAGE.replace("\\\n", " ")
    return [shlex.split(block) for block in re.findall(r"```\n(.*?)```", page, re.DOTALL)]


def test_the_pages_commands_are_those_that_are_tested():
    port, guest = commands()
    add = ["ovs-vsctl", "add-port", "br0", "vhu0", "--", "set", "Interface", "vhu0"]
    mac = "external_ids:attached-mac=52:54:00:00:00:02"
    assert port == [*add, *uml.PORT_SETTINGS, mac]
    environment = [f"{name}={value}" for name, value in uml.ENVIRONMENT.items()]
    assert guest == [*environment, *uml.arguments("/run/openvswitch/vhu0", "init.gz")]
