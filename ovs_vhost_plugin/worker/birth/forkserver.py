# SPDX-License-Identifier: Apache-2.0
"""The fork server: a warm process that forks workers, so kernels compile once and share pages.

It is a process of its own because the daemon must stay light and quick to restart, and because a
process that forks must have one thread and no secrets. It holds nothing but a socket to the daemon
and ends when the daemon does. The workers stay.

Its messages are in `ipc/births.py`.
"""

import contextlib
import gc
import importlib
import os
import select
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, assert_never

from ovs_vhost_plugin.common import build, pidfile, process
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import (
    Born,
    Broken,
    Dispose,
    Exited,
    ForkWorker,
    News,
    Ready,
    Stillborn,
)
from ovs_vhost_plugin.ipc.channel import Channel, ChannelClosed
from ovs_vhost_plugin.worker.birth import child, holes, sandbox, tapio
from ovs_vhost_plugin.worker.birth.tapio import TapIo

_MAX_FDS = 8  # vitals, a group, two listeners, a journal, a tap's queue
_LAST_WORDS = 300  # characters of an error's text that go to the daemon


def main(argv: list[str]) -> int:
    """Run the fork server until the daemon ends."""
    fd, module, state, *again = argv
    process.close_fds_except({0, 1, 2, int(fd)})
    process.set_name("vhost-forksrv")
    child.reset_signals()
    sock, state_dir = socket.socket(fileno=int(fd)), StateDir(Path(state))
    return ForkServer(sock, module, state_dir, again=bool(again)).live()


class ForkServer:
    """Forks workers that run `worker_module`, as the daemon asks over `sock`."""

    def __init__(
        self, sock: socket.socket, worker_module: str, state: StateDir, *, again: bool
    ) -> None:
        """`again`: this process has been its own predecessor (`_start_again`)."""
        self._again = again
        self._channel = Channel(sock, max_fds=_MAX_FDS)
        self._module = worker_module
        self._state = state
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._lacking: list[str] = []
        self._tap_io = TapIo(together=False, words="")
        self._children: dict[int, int] = {}  # pidfd → pid
        self._epoll = select.epoll()

    def live(self) -> int:
        """Serve until the daemon has gone; return the exit status."""
        try:
            worker = self._warm()
            lacking = tuple(self._try_sandbox())
            self._tell(Ready(lacking, build.of_this_code(), self._tap_io.words))
            self._epoll.register(self._channel, select.EPOLLIN)
            while True:
                self._turn(worker)
        except ChannelClosed:
            return 0

    def _warm(self) -> ModuleType:
        try:
            worker = importlib.import_module(self._module)
            if worker.warm() and not self._again:
                self._start_again()
            self._tap_io = worker.choose_tap_io(os.environ.get(tapio.VARIABLE, ""))
            with contextlib.suppress(ImportError):  # then the sandbox reports its missing filter
                sandbox.program(sandbox.FIRST, self._tap_io.together)
            if process.threads() != 1:
                raise RuntimeError("warming left a thread: forking would not be safe")
        except Exception as error:
            self._tell(Broken(repr(error)[:_LAST_WORDS]))
            raise
        os.environ.clear()
        # No garbage collection: it would write to the pages that the workers share.
        gc.collect()
        gc.freeze()
        holes.fill()
        return worker

    def _start_again(self) -> NoReturn:
        """Become a new process, which loads the kernels that this one has compiled.

        The compiler leaves some 250 MiB behind, of which each worker would have a share.
        """
        os.set_inheritable(self._channel.fileno(), True)
        os.execv(sys.executable, [*sys.orig_argv, "again"])

    def _try_sandbox(self) -> list[str]:
        """The layers that the sandbox lacks here, found by a child that enters it and ends."""
        reader, writer = os.pipe()
        pid = self._fork()
        if pid == 0:
            _end_with(lambda: child.try_sandbox(writer))
        os.close(writer)
        with os.fdopen(reader) as told:
            lacking = told.read().splitlines()
        os.waitpid(pid, 0)
        return [*self._lacking, *lacking]

    def _turn(self, worker: ModuleType) -> None:
        events = select.EPOLLIN | (select.EPOLLOUT if self._channel.wants_write else 0)
        self._epoll.modify(self._channel, events)
        for fd, _ in self._epoll.poll():
            if fd in self._children:
                self._reap(fd)
            else:
                self._channel.flush()
                for request, fds in self._channel.receive():
                    self._answer(worker, request, fds)

    def _tell(self, news: News) -> None:
        self._channel.send(births.encode_news(news))

    def _answer(self, worker: ModuleType, said: dict[str, Any], fds: list[int]) -> None:
        match births.decode_request(said):
            case Dispose():
                self._dispose(fds)
            case ForkWorker() as request:
                try:
                    self._bear(worker, request, fds)
                finally:
                    for fd in fds:
                        os.close(fd)
            case request:
                assert_never(request)

    def _dispose(self, fds: list[int]) -> None:
        """Let a child do the last close of `fds`: it ends once they are closed here."""
        reader, writer = os.pipe()

        def wait() -> int:
            os.close(writer)
            return len(os.read(reader, 1))

        self._born(wait)
        for fd in (reader, *fds, writer):
            os.close(fd)

    def _bear(self, worker: ModuleType, request: ForkWorker, fds: list[int]) -> None:
        name, successor = request.spec.name, request.successor
        try:
            pid = self._born(lambda: child.be_worker(worker, request, fds, self._tap_io))
        except OSError as error:
            self._tell(Stillborn(name, str(error), successor))
            return
        # Written here, from outside: a worker knows only its pid in its own namespace.
        record = self._state.successor(name) if successor else self._state.pid(name)
        pidfile.write(record, pid)
        self._tell(Born(name, pid, successor))

    def _born(self, live: Callable[[], int]) -> int:
        """Fork a child that runs `live`; return its pid. Its end is reported. Raises OSError."""
        pid = self._fork()
        if pid == 0:
            _end_with(live)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._epoll.register(pidfd, select.EPOLLIN)
        return pid

    def _fork(self) -> int:
        """Fork a child that is the first process of a PID namespace, if there can be one.

        When the first process of a namespace ends, for any reason, the kernel ends all processes
        in the namespace (pid_namespaces(7)).
        """
        if not self._lacking:
            try:
                process.unshare(process.NEW_PID)
            except OSError as error:
                self._lacking = [f"PID namespace ({error.strerror})"]
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0 and not self._lacking:
                process.enter(self._pid_namespace, process.NEW_PID)  # for the next child
        return pid

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._epoll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._tell(Exited(pid, code))


def _end_with(live: Callable[[], int]) -> NoReturn:
    """Run a forked child to its end, without a way back into the parent's frames."""
    status = 70  # EX_SOFTWARE
    try:
        status = live()
    except BaseException:
        # A worker has no file to read source lines from; names and line numbers are enough.
        with contextlib.suppress(OSError):
            traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
