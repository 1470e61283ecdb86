# SPDX-License-Identifier: Apache-2.0
"""What a program made is taken down, wherever in the program a signal comes."""

import os
import signal
import socket
import sys
import threading

import pytest

from ovs_vhost_plugin.lab import process, takedown
from ovs_vhost_plugin.lab.interruption import SIGNALS, hear, noted
from ovs_vhost_plugin.lab.process import PATIENCE, Process, readable, wait_until
from ovs_vhost_plugin.lab.takedown import taken_down


@pytest.fixture
def swept(monkeypatch) -> list[int | None]:
    """The owners whose things were removed; None: those of owners that are gone."""
    asked = []
    monkeypatch.setattr(takedown.namespace, "sweep", lambda pid=None: asked.append(pid))
    return asked


def wait_for_a_process(tmp_path) -> None:
    program = Process(["sleep", str(PATIENCE)], tmp_path / "output")
    try:
        program.wait(PATIENCE)
    finally:
        program.kill()


def wait_for_a_peer(_) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        readable(ours, PATIENCE)


WAITS = {
    "a condition": lambda _: wait_until(lambda: None, "the moon", PATIENCE),
    "a command": lambda _: process.run(["sleep", str(PATIENCE)], seconds=2 * PATIENCE),
    "a process": wait_for_a_process,
    "a peer": wait_for_a_peer,
    "time": lambda _: process.pause(PATIENCE),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_each_wait(tmp_path, number, wait):
    later = threading.Timer(0.05, os.kill, [os.getpid(), number])
    with pytest.raises(KeyboardInterrupt), noted():
        later.start()
        wait(tmp_path)
    later.join()


def test_a_command_has_ended_when_it_is_interrupted(tmp_path):
    pid = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt), noted() as interruption:
        later = threading.Timer(0.0, lambda: (_written(pid), interruption.note(0, None)))
        later.start()
        process.run(["sh", "-c", f"echo $$ >{pid}; exec sleep {PATIENCE}"], seconds=2 * PATIENCE)
    later.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_command_that_the_terminal_has_interrupted_too_has_not_failed():
    """Ctrl-C goes to all processes of the terminal: the command may end first."""
    with pytest.raises(KeyboardInterrupt), noted():
        process.run(["sh", "-c", "kill -INT $PPID; exit 130"])


def _written(path) -> None:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "the pid")


def test_a_signal_waits_where_the_program_does_not(monkeypatch):
    """In a destructor an exception would go no further; elsewhere it may leave a thing unnoted."""

    class Destroyed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sys, "unraisablehook", pytest.fail)
    made = []
    with pytest.raises(KeyboardInterrupt), noted():
        Destroyed()
        made.append("noted")
        hear()
    assert made == ["noted"]


def test_a_second_signal_does_not_wait():
    with pytest.raises(KeyboardInterrupt), noted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it computes on")


def test_what_is_being_ended_is_not_interrupted_again():
    with noted():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            hear()
        for number in SIGNALS * 2:
            signal.raise_signal(number)
        hear()


def test_only_the_main_thread_is_interrupted():
    heard = []
    with pytest.raises(KeyboardInterrupt), noted():
        signal.raise_signal(signal.SIGINT)
        other = threading.Thread(target=lambda: heard.append(hear()))
        other.start()
        other.join()
        hear()
    assert heard == [None]


@pytest.mark.parametrize("number", SIGNALS)
def test_all_is_swept_after_a_signal(swept, number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), taken_down():
        signal.raise_signal(number)
        hear()
    assert swept == [None, os.getpid()] and signal.getsignal(number) == before


def test_a_sweep_is_not_interrupted(monkeypatch):
    monkeypatch.setattr(takedown.namespace, "sweep", lambda _=None: hear())
    with taken_down():
        signal.raise_signal(signal.SIGTERM)
