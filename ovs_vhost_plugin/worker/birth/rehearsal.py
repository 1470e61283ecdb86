# SPDX-License-Identifier: Apache-2.0
"""A rehearsal: the fork server runs a worker from hello to quit, with a daemon and a guest.

What an interpreter writes when code runs for the first times is then written before the fork, on
pages that all workers share: adapted bytecode and its caches, the cache of methods, tables that
libraries fill when they are first used. Each worker had copies of these pages. And each call counts
a reference in the code that it calls, so the code that runs is put together, on few pages.

The daemon and the guest are a child, which ends with the last round. The tap is in a network
namespace that nobody else sees.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.ipc import commands
from ovs_vhost_plugin.ipc.channel import Channel
from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES, Inheritance, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Vitals
from ovs_vhost_plugin.tap import device
from ovs_vhost_plugin.worker.birth import holes

Run = Callable[[WorkerSpec, Inheritance], object]
"""`worker.process.run`."""

_ROUNDS = 12
"""Python 3.11 adapts a function's code after 8 calls."""
_scattered: list[CodeType | FunctionType] = []
"""Gathered code and functions. Their places are kept: workers would write there again."""
_PATIENCE = 10.0  # seconds for an answer of the worker
_SPEC = WorkerSpec("rehearsal", "client", "/rehearsal", 1)


@dataclass(frozen=True, slots=True)
class _Round:
    """A worker's inheritance, and the daemon's end of its control socket."""

    inheritance: Inheritance
    daemon: socket.socket


def rehearse(run: Run) -> None:
    """Run workers, one after the other. Raises OSError where no tap can be made.

    The process has one thread, and gets its signal handlers, its standard error and its set of
    open fds back.
    """
    with _nothing_left():
        rounds = [_make_round(tap) for tap in _make_taps()]
        director = os.fork()
        if director == 0:
            _direct_and_end(rounds)
        for one in rounds:
            one.daemon.close()
        vitals = Vitals()
        os.dup2(vitals.fd, 2)  # a worker's pulse is in the file of its standard error
        first, *others = rounds
        gather(lambda: run(_SPEC, first.inheritance))
        for one in others:
            run(_SPEC, one.inheritance)
        os.waitpid(director, 0)


def gather(run: Callable[[], object]) -> None:
    """Put copies of what `run` runs in the place of it, functions and code, one after the other."""
    hot: set[CodeType] = set()
    sys.setprofile(lambda frame, _event, _argument: hot.add(frame.f_code))
    try:
        run()
    finally:
        sys.setprofile(None)
    holes.fill()
    # By type: a weakref.proxy to what is gone has no class, and raises ReferenceError.
    functions = [one for one in gc.get_objects() if type(one) is FunctionType]
    functions = [function for function in functions if function.__code__ in hot]
    for function in functions:
        _scattered.append(function.__code__)
        function.__code__ = function.__code__.replace()
    copies = {function: _copy(function) for function in functions}
    _scattered.extend(copies)
    for one in gc.get_objects():
        if issubclass(type(one), type):
            _replace(vars(one), copies, functools.partial(type.__setattr__, one))
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            _replace(vars(module), copies, functools.partial(setattr, module))


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(copy, function)
    del vars(copy)["__wrapped__"]
    return copy


def _replace(
    names: Mapping[str, object],
    copies: Mapping[FunctionType, FunctionType],
    put: Callable[[str, object], object],
) -> None:
    """Give each name of one of `copies` its copy."""
    for name, value in list(names.items()):
        if type(value) is FunctionType and value in copies:
            put(name, copies[value])


@contextlib.contextmanager
def _nothing_left() -> Iterator[None]:
    """Put back what a worker changes in its process, which ends with it."""
    stderr = os.dup(2)
    listed = list(Path("/proc/self/fd").iterdir())
    fds = {int(entry.name) for entry in listed if entry.is_symlink()} - {stderr}
    handlers = {one: signal.getsignal(one) for one in signal.valid_signals()}
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        os.dup2(stderr, 2)
        gc.collect()  # first the objects that own fds
        process.close_fds_except(fds)


def _make_round(tap: int) -> _Round:
    """Sockets and a journal as the daemon makes them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind("")  # an address of the kernel's choice, without a file: unix(7)
        control.listen()
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        daemon.connect(control.getsockname())
        journal = os.memfd_create("rehearsal")
        os.ftruncate(journal, 2 * JOURNAL_BYTES)
        return _Round(Inheritance(control.detach(), None, tap, journal), daemon)


def _make_taps() -> list[int]:
    """A queue of a tap for each round. They go with their queues, and their namespace with them."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    process.unshare(process.NEW_NET)
    try:
        return [device.make(f"rehearsal{number}") for number in range(_ROUNDS)]
    finally:
        process.enter(home, process.NEW_NET)


def _direct_and_end(rounds: Sequence[_Round]) -> None:
    """Play the daemon and the guest of each round; end this process."""
    channels = [Channel(one.daemon) for one in rounds]
    try:
        for channel in channels:
            _direct(channel)
    finally:
        for channel in channels:
            with contextlib.suppress(Exception):
                channel.send(commands.encode(commands.Quit()))
        os._exit(0)


def _direct(channel: Channel) -> None:
    # Imported here, so that no worker has it in its memory.
    from ovs_vhost_plugin.guest.frontend.connection import FrontEndConnection
    from ovs_vhost_plugin.guest.soft import Config, SoftGuest

    vitals = Vitals()
    reports, worker_reports = os.pipe()
    ours, theirs = socket.socketpair()
    with theirs:
        hello = commands.DaemonHello("rehearsal")
        channel.send(commands.encode(hello), [worker_reports, vitals.fd, vitals.alarm])
        channel.send(commands.encode(commands.Connected()), [theirs.fileno()])
    guest = SoftGuest(Path(_SPEC.path), Config(size=64))
    front_end = guest.initialise(FrontEndConnection(ours, _PATIENCE))
    guest.run_on(front_end, [vring.queue.base for vring in guest.vrings])
    front_end.send_rarp(guest.config.mac)
    guest.send(b"\xff" * 6 + guest.config.mac + bytes(48))
    channel.send(commands.encode(commands.GetStats(1)))
    guest.stop_rings()
    channel.send(commands.encode(commands.Quit()))
    os.read(reports, 1)
    guest.close()
