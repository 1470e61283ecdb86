# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost watch` beside a real switch and daemon."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = pytest.mark.integration


class Watch:
    """A running command; `next` awaits its next line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def next(self) -> tuple[str, str, str]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found["port"], found["event"], found["now"].partition(":")[0]

    def until(self, wanted: tuple[str, str, str]) -> None:
        while self.next() != wanted:
            pass


@contextmanager
def watching(host, *words: str) -> Iterator[Watch]:
    command = [sys.executable, "-m", "ovs_vhost_plugin", "watch", "--db", host.switch.db]
    with subprocess.Popen(
        [*command, "--format", "json", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Watch(process)
        finally:
            process.terminate()  # and not SIGINT, which what runs in the background may ignore


def test_ports_are_followed_from_their_first_line_to_their_last(host) -> None:
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "connecting")
    with watching(host) as watch:
        assert watch.next() == ("vhu0", "status", "connecting")
        host.add_client_port("vhu1", None, "external_ids:vhost-user-queues=0")
        watch.until(("vhu1", "status", "error"))
        assert watch.next() == ("vhu1", "error", "queues-invalid")
        host.delete_port("vhu0")
        watch.until(("vhu0", "status", ""))


def test_what_changes_while_the_database_is_away_is_told_afterwards(host) -> None:
    host.add_client_port("vhu0")
    host.wait_status("vhu0", "connecting")
    with watching(host, "vhu0", "vhu1") as watch:
        assert watch.next() == ("vhu0", "status", "connecting")
        host.switch.stop_server()
        host.switch.start_server()
        host.add_client_port("vhu1")
        watch.until(("vhu1", "status", "connecting"))


def test_a_database_that_is_not_there_is_named(host) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ovs_vhost_plugin", "watch"),
            *("--db", f"unix:{host.directory}/nowhere.sock"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == ("ovs-vhost: the database does not answer; does ovsdb-server run?\n")
