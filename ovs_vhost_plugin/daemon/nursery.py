# SPDX-License-Identifier: Apache-2.0
"""A pre-warmed process that forks workers: kernels are compiled once, pages are shared.

It is forked from the daemon and is a process of its own because the daemon must stay light and
quick to restart, and because what forks must have one thread and no secrets: the nursery holds
nothing but a socket to the daemon, and ends when the daemon does. The workers stay.
"""

import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NoReturn

import ovs.daemon
import ovs.fatal_signal

from ovs_vhost_plugin import process
from ovs_vhost_plugin.control import Channel, ChannelClosed, WorkerSpec
from ovs_vhost_plugin.daemon import pidfile
from ovs_vhost_plugin.dirs import StateDir

_MAX_FDS = 160  # 2 listeners, a journal and the queues of a tap; the kernel takes 253 (SCM_MAX_FD)
_MAX_LOG = 1 << 20  # bytes a worker may write to its log, or to any file
_LAST_WORDS = 300  # characters of an error's text that go to the daemon


def start(worker_module: str, state: StateDir) -> tuple[int, Channel]:
    """Fork the nursery; return its pid and the daemon's end of the channel.

    The caller has one thread. `worker_module` has `warm()` and `run(spec, control_listener,
    vhost_listener, tap_fds, journal_fd) -> int`.

    daemon → nursery: {"spec", "listener": bool} + fds control listener[, vhost listener],
        journal, queues
    nursery → daemon: {"event": "ready"} | "born" {name, pid} | "stillborn" {name, error} |
        "exited" {pid, status} | "broken" {error}
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        _end_with(lambda: _Nursery(theirs, worker_module, state).live())
    theirs.close()
    return pid, Channel(ours, max_fds=0)


def _end_with(live: Callable[[], int]) -> NoReturn:
    """Run a forked child to its end, without a way back into the parent's frames."""
    status = 70  # EX_SOFTWARE
    try:
        status = live()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


class _Nursery:
    def __init__(self, sock: socket.socket, worker_module: str, state: StateDir) -> None:
        self._channel = Channel(sock, max_fds=_MAX_FDS)
        self._module = worker_module
        self._state = state
        self._children: dict[int, int] = {}  # pidfd → pid
        self._poll = select.poll()

    def live(self) -> int:
        """From fork to the daemon's end."""
        _forget_parent()
        if ovs.daemon.get_detach():
            # As the daemon itself does: whoever waits for its output's end is not to wait for us.
            process.redirect({0: os.devnull, 1: os.devnull, 2: os.devnull})
        process.close_fds_except({0, 1, 2, self._channel.fileno()})
        os.setsid()
        process.set_name("vhost-nursery")
        try:
            worker = self._warm()
            self._channel.send({"event": "ready"})
            while True:
                self._turn(worker)
        except ChannelClosed:
            return 0

    def _warm(self) -> ModuleType:
        # numpy's linear algebra, unused here, would start threads as soon as it is loaded.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        try:
            worker = importlib.import_module(self._module)
            worker.warm()
            if process.threads() != 1:
                raise RuntimeError("warming left a thread: forking would not be safe")
        except Exception as error:
            self._channel.send({"event": "broken", "error": repr(error)[:_LAST_WORDS]})
            raise
        # Never to be collected: collecting would write to the pages that the workers share.
        gc.collect()
        gc.freeze()
        return worker

    def _turn(self, worker: ModuleType) -> None:
        events = select.POLLIN | (select.POLLOUT if self._channel.wants_write else 0)
        self._poll.register(self._channel, events)
        for fd, _ in self._poll.poll():
            if fd in self._children:
                self._reap(fd)
            else:
                self._channel.flush()
                for request, fds in self._channel.receive():
                    self._answer(worker, request, fds)

    def _answer(self, worker: ModuleType, request: dict[str, Any], fds: list[int]) -> None:
        name = request["spec"]["name"]
        try:
            pid = os.fork()
        except OSError as error:
            self._channel.send({"event": "stillborn", "name": name, "error": str(error)})
        else:
            if pid == 0:
                _end_with(lambda: _be_worker(worker, self._state, request, fds))
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = pid
            self._poll.register(pidfd, select.POLLIN)
            self._channel.send({"event": "born", "name": name, "pid": pid})
        finally:
            for fd in fds:
                os.close(fd)

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._channel.send({"event": "exited", "pid": pid, "status": code})


def _be_worker(worker: ModuleType, state: StateDir, request: dict[str, Any], fds: list[int]) -> int:
    spec = WorkerSpec.from_json(request["spec"])
    _reset_signals()
    os.setsid()
    os.chdir("/")
    process.redirect({0: os.devnull, 1: os.devnull, 2: os.fspath(state.log(spec.name))})
    process.close_fds_except({0, 1, 2, *fds})
    process.set_name(spec.name)
    pidfile.write(state.pid(spec.name))
    # No core: it would hold the guest's memory. No big files: a log must not fill /run.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_LOG, _MAX_LOG))
    # Says into the log which signal it was, also to a daemon that is not the parent (SIGBUS: the
    # front-end cut its memory file short).
    faulthandler.enable(2)
    control, *rest = fds
    listener = socket.socket(fileno=rest.pop(0)) if request["listener"] else None
    journal, *queues = rest
    status: int = worker.run(spec, socket.socket(fileno=control), listener, queues, journal)
    return status


def _forget_parent() -> None:
    """Drop what must not happen twice: hooks that unlink the daemon's files, its log files."""
    ovs.fatal_signal.fork()
    gc.freeze()  # nothing of the daemon's is finalized here: its fds' numbers get new meanings
    _reset_signals()
    for name in ("file", "syslog"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.disabled = True


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in _catchable():
        with contextlib.suppress(OSError, ValueError):
            if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None):
                signal.signal(number, signal.SIG_DFL)


def _catchable() -> Iterable[signal.Signals]:
    return signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
