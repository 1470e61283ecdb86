# SPDX-License-Identifier: Apache-2.0
"""A userfaultfd reaches all memory of the worker that made it: who gets one, and who does not."""

import os
from pathlib import Path

import pytest

from ovs_vhost_plugin.guest.frontend.connection import WrongReplyError
from ovs_vhost_plugin.guest.soft import Config, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

KEY = "external_ids:vhost-user-postcopy=true"


def opened(pid, what):
    """How many fds of a process are of this name."""
    return sum(what in str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir())


def asked(evil):
    """What the daemon answers a worker that asks for the device."""
    before = len(evil.run("result = me.commands")["result"])
    evil.run("me.tell('userfaultfd')")

    def answer():
        said = evil.run("result = me.commands")["result"][before:]
        return [command for command in said if command["op"].endswith("userfaultfd")]

    return wait_until(answer, "the daemon's answer")[0]


def test_a_front_end_is_given_none(host):
    path = host.add_server_port("pc0")
    host.wait_status("pc0", "listening")
    guest = SoftGuest(path, Config())
    try:
        with pytest.raises(WrongReplyError):
            guest.connect().advise_postcopy()
    finally:
        guest.close()
    host.delete_port("pc0")


def test_one_that_the_row_trusts_is_given_one(host):
    """Which is what the attack needs: REGISTER and COPY plant pages in any memory of the worker."""
    path = host.add_server_port("pc1", KEY)
    host.wait_status("pc1", "listening")
    guest = SoftGuest(path, Config())
    try:
        os.close(guest.connect().advise_postcopy())
    finally:
        guest.close()
    host.delete_port("pc1")


def test_a_worker_that_was_taken_over_is_given_none(evil_host):
    with evil_host.evil_port("pc2") as evil:
        assert "vhost-user-postcopy" in asked(evil)["error"]
        assert opened(evil.pid, "userfaultfd") == 0
        answer = evil.run("os.open('/dev/userfaultfd', os.O_RDWR)")
        assert answer["errno"] == "EACCES"
    evil_host.delete_port("pc2")


def test_one_of_a_port_that_is_trusted_is_not_given_more_than_it_may_need(evil_host):
    """The daemon opens the device once a second at most, and ends one that asks too often."""
    with evil_host.evil_port("pc3", KEY) as evil:
        assert "error" not in asked(evil)
        pid = evil.pid
        evil.send("for _ in range(1000): me.tell('userfaultfd')")
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    evil_host.delete_port("pc3")
