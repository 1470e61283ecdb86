# SPDX-License-Identifier: Apache-2.0
"""docs/ovs-vhost.8 says the same as `--help`, and both explain everything."""

import subprocess
import sys

import pytest
from support.checkout import TOP

from ovs_vhost_plugin import cli

PAGE = TOP / "docs" / "ovs-vhost.8"


def test_the_page_is_the_one_that_make_man_writes() -> None:
    command = [sys.executable, "-m", "ovs_vhost_plugin.manpage"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert PAGE.read_text() == made, "make man"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_option_and_command_has_its_help(name: str) -> None:
    parser = cli.COMMANDS[name].parser()
    assert parser.prog == f"ovs-vhost {name}"
    assert parser.description and cli.COMMANDS[name].summary
    assert not [action.dest for action in parser._actions if not action.help]
