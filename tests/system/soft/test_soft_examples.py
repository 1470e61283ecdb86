# SPDX-License-Identifier: Apache-2.0
"""The example that talks to a port, on a real one."""

import re
import sys

import pytest
from support.checkout import TOP
from support.system.soft_ports import frame_of

from ovs_vhost_plugin.lab.process import Process, wait_until

pytestmark = pytest.mark.system


def test_a_front_end_says_hello_and_prints_what_it_is_told(port, tmp_path):
    frame = frame_of(60)
    with port.capture() as capture:
        argv = [sys.executable, str(TOP / "examples/front_end.py"), str(port.path)]
        program = Process(argv, tmp_path / "output")
        (hello,) = program.ready(lambda: port.sent(capture, 1), "its frame")
        port.inject(frame)
        program.wait(60)
    assert hello[12:19] == b"\x88\xb5hello"
    offered, received, stopped = program.output.read_text().splitlines()
    assert re.fullmatch(r"offered: 0x[0-9a-f]+, 1 queue pairs", offered)
    assert received == f"received: {frame.hex()}"
    assert stopped == "the rings stopped at [1, 1]"
    wait_until(lambda: not port.carrier, "the end of the guest")
