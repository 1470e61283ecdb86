# SPDX-License-Identifier: Apache-2.0
"""docs/hostile-inputs.md stays true: each name of an error is there, each test it names exists."""

from __future__ import annotations

import re

import pytest
from support.checkout import TESTS

from ovs_vhost_plugin.announce.guests.claims import NOT_GIVEN
from ovs_vhost_plugin.forward.allowance import HOLD_LIMIT
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.vhost.errors import PeerErrorName

TABLE = TESTS.parent / "docs" / "hostile-inputs.md"
ROWS = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", TABLE.read_text(), re.MULTILINE)
NAMED = {name for _, names, _ in ROWS for name in re.findall(r"`([a-z0-9-]+)`", names)}
ELSEWHERE = {
    "fds-not-closed",
    "memory-file-truncated",
    "postcopy-page-missing",
    "worker-channel",
}
"""What the daemon calls the end of a worker."""
REFUSED = {"mac-foreign", HOLD_LIMIT, *NOT_GIVEN}
"""And what it calls what it refuses one."""


def test_every_error_and_fault_is_in_the_table_and_no_other() -> None:
    names = {str(name) for name in PeerErrorName} | {fault.kebab for fault in Fault}
    assert names - NAMED == set()
    assert NAMED - names == ELSEWHERE | REFUSED


@pytest.mark.parametrize("what", [what for what, names, _ in ROWS if names != "name"])
def test_its_tests_exist(what: str) -> None:
    (tests,) = (tests for seen, _, tests in ROWS if seen == what)
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    for file, function in named:
        path = TESTS / file
        assert re.search(rf"^def {function}\(", path.read_text(), re.MULTILINE), function
