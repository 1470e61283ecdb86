# SPDX-License-Identifier: Apache-2.0
import sys

import pytest

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.switch import parse_fdb, parse_mdb
from ovs_vhost_plugin.lab.process import LabError, Process

DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
signal.pause()
"""


def test_a_failing_command_is_an_error_with_its_words():
    with pytest.raises(LabError, match="exit status 3: broken"):
        process.run(["sh", "-c", "echo broken >&2; exit 3"])


def test_a_command_without_end_is_an_error():
    with pytest.raises(LabError, match="no end within"):
        process.run(["sleep", "60"], seconds=0.05)


def test_a_program_that_is_not_installed_is_an_error(tmp_path):
    with pytest.raises(LabError, match="not installed"):
        process.run(["/no/such/program"])
    with pytest.raises(LabError, match="not installed"):
        Process(["/no/such/program"], tmp_path / "out")


def test_readiness_fails_at_once_when_the_program_ends(tmp_path):
    program = Process(["sh", "-c", "echo cannot; exit 4"], tmp_path / "out")
    with pytest.raises(LabError, match="a thing: the program ended with status 4\ncannot"):
        program.ready(lambda: False, "a thing", seconds=30)


def test_a_program_that_ignores_sigterm_is_ended_all_the_same(tmp_path):
    program = Process([sys.executable, "-c", DEAF], tmp_path / "out")
    program.ready(lambda: program.tail() == "up", "the program")
    assert program.stop(seconds=0.2) == -9
    assert not program.running


def test_stopping_twice_is_no_error(tmp_path):
    program = Process(["sleep", "60"], tmp_path / "out")
    assert program.stop() == -15
    assert program.stop() == -15


def test_waiting_in_vain_says_for_what():
    with pytest.raises(LabError, match="the moon: not within"):
        process.wait_until(lambda: None, "the moon", seconds=0.05)


def test_the_table_of_macs_is_read():
    text = (
        " port  VLAN  MAC                Age\n"
        "    2    10  52:54:00:00:00:01    3\n"
        "LOCAL     0  f6:ee:ac:ca:04:b0    0\n"
    )
    assert parse_fdb(text) == {
        "52:54:00:00:00:01": ("2", 10),
        "f6:ee:ac:ca:04:b0": ("LOCAL", 0),
    }


@pytest.mark.parametrize(
    "text",
    [
        " port  VLAN  GROUP                Age\n"
        "    2     0  239.1.2.3            4\n    2     0  ff0e::4242           4\n",
        " port  VLAN  protocol  GROUP                Age\n"
        "    2     0  IGMPv3    239.1.2.3            4\n    2     0  MLDv2     ff0e::4242    4\n",
    ],
    ids=["Open vSwitch 3.1", "3.5"],
)
def test_parse_mdb(text: str) -> None:
    assert parse_mdb(text) == {"2": {"239.1.2.3", "ff0e::4242"}}
