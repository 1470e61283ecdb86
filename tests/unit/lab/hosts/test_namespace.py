# SPDX-License-Identifier: Apache-2.0
"""The clients of QEMU's sockets against a scripted peer."""

import json
import socket
import threading
import time

import pytest

from ovs_vhost_plugin.lab.guests.console import Console
from ovs_vhost_plugin.lab.guests.qmp import Qmp
from ovs_vhost_plugin.lab.process import LabError


@pytest.fixture
def peer(tmp_path):
    """Starts a server on a unix socket that runs `script(connection file)`; its path."""
    threads = []

    def start(script):
        path = tmp_path / "s"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def serve():
            with listener, listener.accept()[0] as connection, connection.makefile("rw") as file:
                script(file)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def say(file, **message):
    file.write(json.dumps(message) + "\n")
    file.flush()


def greet(file):
    say(file, QMP={})
    assert json.loads(file.readline())["execute"] == "qmp_capabilities"
    say(file, **{"return": {}})


def event(name, **data):
    now = time.time()
    stamp = {"seconds": int(now), "microseconds": int(now % 1 * 1e6)}
    return {"event": name, "data": data, "timestamp": stamp}


def test_a_command_returns_its_answer_and_keeps_the_events_before_it(peer):
    def script(file):
        greet(file)
        request = json.loads(file.readline())
        assert request == {"execute": "migrate", "arguments": {"max-size": 3}}
        say(file, **event("MIGRATION", status="setup"))
        say(file, **{"return": 7})

    qmp = Qmp(peer(script))
    before = time.monotonic()
    assert qmp.command("migrate", max_size=3) == 7
    seen = qmp.wait_event("MIGRATION", status="setup")
    assert before - 0.001 < seen.at < time.monotonic() + 0.001
    qmp.close()


def test_an_error_is_raised_with_qemus_words(peer):
    def script(file):
        greet(file)
        file.readline()
        say(file, error={"class": "GenericError", "desc": "no such device"})

    qmp = Qmp(peer(script))
    with pytest.raises(LabError, match="announce-self: no such device"):
        qmp.command("announce-self")
    qmp.close()


def test_an_event_that_never_comes_is_an_error(peer):
    gone = threading.Event()

    def script(file):
        greet(file)
        say(file, **event("STOP"))
        gone.wait(60)

    qmp = Qmp(peer(script))
    qmp.wait_event("STOP")
    with pytest.raises(LabError, match="no answer in time"):
        qmp.wait_event("RESUME", seconds=0.1)
    assert [seen.name for seen in qmp.drain()] == ["STOP"]
    gone.set()
    qmp.close()


def test_a_monitor_that_closes_is_an_error(peer):
    qmp = Qmp(peer(greet))
    with pytest.raises(LabError, match="QEMU's monitor: "):
        qmp.command("cont")
    qmp.close()


def test_the_console_takes_the_answer_between_its_own_markers(peer):
    def script(file):
        file.write("boot noise\n@ready@\n")
        file.flush()
        nonce, command = file.readline().split(maxsplit=1)
        assert command == "echo hi\n"
        file.write(f"@n0@\nold\n@n0:0@\nlate noise @{nonce}@\nhi\r\nthere\n@{nonce}:0@\n")
        file.flush()

    console = Console.connect(peer(script))
    console.wait_booted(60)
    assert console.run("echo hi", seconds=60) == "hi\nthere"
    console.close()


def test_the_console_raises_what_failed_in_the_guest(peer):
    def script(file):
        nonce = file.readline().split()[0]
        file.write(f"@{nonce}@\nnot found\n@{nonce}:127@\n")
        file.flush()

    console = Console.connect(peer(script))
    with pytest.raises(LabError, match="exit status 127: not found"):
        console.run("nonsense", seconds=60)
    console.close()


def test_the_console_says_what_it_saw_instead_of_an_answer(peer):
    said, gone = threading.Event(), threading.Event()

    def script(file):
        file.write("Kernel panic")
        file.flush()
        said.set()
        gone.wait(60)

    console = Console.connect(peer(script))
    assert said.wait(60)
    with pytest.raises(LabError, match="Kernel panic"):
        console.run("true", seconds=0.2)
    gone.set()
    console.close()
