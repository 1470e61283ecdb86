# SPDX-License-Identifier: Apache-2.0
"""A worker that has been taken over: in its sandbox, it runs what its front-end sends.

It is put in place of the product's worker by the tests alone (`daemon_with_evil_worker.py`). The
front-end sends lines of JSON, {"source": Python}; the answer to each is what the source leaves in
`result`, or the error that it ended with. What a source may use is imported here: from a sandbox
nothing more can be.
"""

import array
import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.common import build
from ovs_vhost_plugin.ipc import commands, reports
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.ipc.reportpipe import ReportWriter
from ovs_vhost_plugin.ipc.reports import PortState, Report, WorkerHello
from ovs_vhost_plugin.ipc.spec import Inheritance, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Pulse
from ovs_vhost_plugin.worker.birth.tapio import TapIo

MODULES = (
    *(array, ctypes, errno, fcntl, json, mmap, os, resource, select, signal, socket, struct),
    *(sys, threading, time),
)
LIBC = ctypes.CDLL(None, use_errno=True)


def warm() -> None:
    pass


def choose_tap_io(_wish: str) -> TapIo:
    return TapIo(together=True, words="io_uring (to attack by)")


def run(spec: WorkerSpec, inheritance: Inheritance) -> int:
    return EvilWorker(spec, inheritance).serve()


class EvilWorker:
    """What a source has as `me`."""

    def __init__(self, spec: WorkerSpec, inheritance: Inheritance) -> None:
        self.spec, self.tap, self.journal = spec, inheritance.tap, inheritance.journal
        self.uring = next(iter(inheritance.urings), None)
        self.control = socket.socket(fileno=inheritance.control)
        listener = inheritance.listener
        self.listener = None if listener is None else socket.socket(fileno=listener)
        self.channel: Channel | None = None
        self.reports: ReportWriter | None = None
        self.master: socket.socket | None = None
        self.obeys = True
        self.commands: list[dict[str, Any]] = []
        self.names: dict[str, Any] = {module.__name__: module for module in MODULES}
        self.names |= {"me": self, "libc": LIBC, "Path": Path, "reports": reports}
        self.part = b""
        self.pulse, self.alarm = Pulse(), -1

    def tell(self, event: str, **what: Any) -> None:
        """Report to the daemon."""
        assert self.reports is not None
        self.reports.send({"event": event, **what})

    def tell_state(self, status: str, **more: Any) -> None:
        self.say(PortState(status, self.spec.path, **more))

    def say(self, report: Report) -> None:
        """Report what an honest worker might."""
        self.tell(**reports.encode(report))

    def serve(self) -> int:
        if self.listener is None:
            raise ValueError("the evil worker serves ports in server mode")
        while True:
            poll = select.poll()
            files = [self.control, self.listener, self.channel, self.master]
            for file in files:
                if file is not None:
                    poll.register(file, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            if self.control.fileno() in ready:
                sock, _ = self.control.accept()
                self.channel = Channel(sock, max_fds=3)
            if self.listener.fileno() in ready:
                self.master, _ = self.listener.accept()
            if self.channel is not None and self.channel.fileno() in ready and self.hear():
                return 0
            if self.master is not None and self.master.fileno() in ready:
                self.obey()

    def hear(self) -> bool:
        """Take the daemon's commands; whether to end."""
        assert self.channel is not None
        try:
            for command, fds in self.channel.receive():
                self.commands.append(command)
                match command:
                    case {"op": "hello"}:
                        self.pulse.adopt(fds[1], fds[2])
                        self.alarm = fds[2]
                        self.reports = ReportWriter(fds[0])
                        self.say(
                            WorkerHello(
                                "evil",
                                self.spec,
                                build=build.of_this_code(),
                                commands=commands.KNOWN,
                            )
                        )
                        self.tell_state("listening")
                    case {"op": "quit"} if self.obeys:
                        return True
        except ChannelClosed:
            self.channel = self.reports = None
        return False

    def obey(self) -> None:
        """Run what the front-end sends."""
        assert self.master is not None
        *lines, self.part = (self.part + self.master.recv(1 << 16)).split(b"\n")
        for line in lines:
            names = {**self.names}
            try:
                exec(json.loads(line)["source"], names)
                answer: Any = {"result": names.get("result")}
            except BaseException as error:
                answer = {"error": f"{type(error).__name__}: {error}", "errno": None}
                if isinstance(error, OSError) and error.errno is not None:
                    answer["errno"] = errno.errorcode[error.errno]
            with contextlib.suppress(OSError):
                self.master.sendall(json.dumps(answer, default=repr).encode() + b"\n")
