# SPDX-License-Identifier: Apache-2.0
"""Keys from the bytes that a terminal sends, and a terminal that is as it was."""

import os
import pty
import signal
import termios

import pytest

from ovs_vhost_plugin.top.keyboard import Keyboard, keys

MINUTE = 60.0


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"s", ["s"]),
        (b"\x1b[A\x1bOBq", ["up", "down", "q"]),
        (b"\x1b[C\x1b[D\r\n\x7f", ["right", "left", "enter", "enter", "backspace"]),
        (b"\x1b", ["escape"]),
        (b"\x1b[15~x\x1b[1;5A", ["x"]),
        ("é漢".encode(), ["é", "漢"]),
        (b"\x01\xff\x1b[", []),
    ],
)
def test_keys(data: bytes, found: list[str]) -> None:
    assert keys(data) == found


def test_keys_come_one_by_one_and_the_terminal_is_restored_after_an_error() -> None:
    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)
        with pytest.raises(ZeroDivisionError), Keyboard(theirs) as keyboard:
            within = termios.tcgetattr(theirs)
            assert not within[3] & (termios.ECHO | termios.ICANON) and within[3] & termios.ISIG
            os.write(ours, b"s")
            assert keyboard.wait(MINUTE) == ["s"]
            assert keyboard.wait(0.0) == []
            os.write(ours, b"q")
            assert keyboard.wait(-1.0) == ["q"], "also when the next question is overdue"
            raise ZeroDivisionError
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_changed_size_ends_the_wait() -> None:
    with Keyboard(None) as keyboard:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert keyboard.wait(MINUTE) == []
