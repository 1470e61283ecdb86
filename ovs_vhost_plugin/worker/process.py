# SPDX-License-Identifier: Apache-2.0
"""The ways into a worker's process, for the fork server: warm up, run, take a port over.

The worker is born in its sandbox (`birth/child.py`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.uring import Uring
from ovs_vhost_plugin.ipc.spec import Inheritance, WorkerSpec
from ovs_vhost_plugin.ipc.vitals import Pulse
from ovs_vhost_plugin.jit import kernel, layout
from ovs_vhost_plugin.worker.birth import calibration
from ovs_vhost_plugin.worker.birth.rehearsal import rehearse
from ovs_vhost_plugin.worker.birth.tapio import TapIo
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import PairConfig
from ovs_vhost_plugin.worker.handover import take
from ovs_vhost_plugin.worker.worker import Worker


def warm() -> bool:
    """Run an empty queue pair once, and rehearse, in the process that workers are forked from.

    Importing has compiled or loaded every kernel. The first run makes the types of its arguments
    known as well, and shows that the kernels run on this machine. True: it has compiled kernels.
    """
    threads = process.threads()
    pair = QueuePair(0, tap_fd=-1)
    nothing = np.zeros(0, layout.REGION_DTYPE)
    pair.prepare(PairConfig(None, None, nothing, None, 12, 0, finish_offloads=False))
    pair.start()
    pair.close()
    process.await_threads(threads)  # only a process with one thread may be forked
    with suppress(OSError):  # where no tap can be made, workers take more memory
        rehearse(run)
    process.await_threads(threads)
    return bool(kernel.newly_compiled)


def choose_tap_io(wish: str) -> TapIo:
    """How workers write frames to their taps here; `wish`: the value of `tapio.VARIABLE`."""
    return calibration.choose(wish)


def run(spec: WorkerSpec, inheritance: Inheritance) -> int:
    """Run the worker of `spec` until it is told to quit; return the exit status."""
    return _serve(Worker(spec, inheritance, Pulse()))


def take_over(spec: WorkerSpec, fd: int, urings: tuple[Uring, ...]) -> int:
    """The same with a port of another worker, given over the socket `fd`; 0 if it is not given."""

    def prepare(estate: take.Estate) -> Worker:
        return Worker(spec, replace(estate.inheritance, urings=urings), Pulse(), estate)

    worker = take.over(fd, spec, prepare)
    if worker is None:
        return 0
    worker.begin()
    return _serve(worker)


def _serve(worker: Worker) -> int:
    try:
        worker.serve()
    finally:
        worker.close()
    return 0
