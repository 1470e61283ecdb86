# SPDX-License-Identifier: Apache-2.0
"""A forked child before it is a worker: it keeps its fds and nothing else."""

import contextlib
import faulthandler
import os
import signal
from collections.abc import Iterable
from types import ModuleType

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.ipc import vitals
from ovs_vhost_plugin.ipc.births import ForkWorker
from ovs_vhost_plugin.ipc.spec import WORKER_UIDS, Inheritance
from ovs_vhost_plugin.vhost.memory import inflight
from ovs_vhost_plugin.worker.birth import sandbox
from ovs_vhost_plugin.worker.birth.tapio import TapIo

_NOBODY = 65534


def be_worker(worker: ModuleType, request: ForkWorker, fds: list[int], tap_io: TapIo) -> int:
    """Run the worker that `request` asks for, with `fds`; return its exit status."""
    spec = request.spec
    os.setsid()
    process.set_name(spec.name)
    black_box, *rest = fds
    _open_std_files(black_box)
    if request.group:
        os.write(rest.pop(0), b"0")  # cgroups(7): the process that writes
    control, *rest = rest  # of a successor: the socket to its predecessor, and no more
    process.close_fds_except({0, 1, 2, control, *rest})
    urings = tap_io.make_urings(spec.queues)
    limits = sandbox.limits_of(spec.queues, inflight.MAX_BYTES)
    own, given = spec.uid in WORKER_UIDS, bool(urings)
    sandbox.enter(spec.uid, spec.gid, limits, own_user=own, io_uring=given)
    # The last words then name the signal, also for a daemon that is not the parent (SIGBUS: the
    # front-end cut its memory file short).
    faulthandler.enable(2)
    if request.successor:
        taken: int = worker.take_over(spec, control, urings)
        return taken
    listener = rest.pop(0) if request.listener else None
    journal, tap = rest
    status: int = worker.run(spec, Inheritance(control, listener, tap, journal, urings))
    return status


def try_sandbox(told: int) -> int:
    """Enter the sandbox as a worker would, and write the missing layers into `told`."""
    lacking = sandbox.enter(_NOBODY, _NOBODY, sandbox.limits_of(1, 0), own_user=False)
    os.write(told, "\n".join(lacking).encode())
    return 0


def _open_std_files(black_box: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    vitals.adopt(black_box)


def reset_signals() -> None:
    """Let signals do what they do by default, as they then do in each child."""
    for number in _catchable():
        with contextlib.suppress(OSError, ValueError):
            if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None):
                signal.signal(number, signal.SIG_DFL)


def _catchable() -> Iterable[signal.Signals]:
    return signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
