# SPDX-License-Identifier: Apache-2.0
"""From a command line to a running daemon: the composition root."""

import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ovs.daemon
import ovs.fatal_signal
import ovs.unixctl
import ovs.unixctl.server
import ovs.util

from ovs_vhost_plugin.announce import formats
from ovs_vhost_plugin.common import dirs, process
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.common.logs.vlog import Vlog
from ovs_vhost_plugin.daemon import options
from ovs_vhost_plugin.daemon.captures.captures import Captures
from ovs_vhost_plugin.daemon.connector import Connector
from ovs_vhost_plugin.daemon.control.commands import Commands
from ovs_vhost_plugin.daemon.guests.announcing import Announcing
from ovs_vhost_plugin.daemon.guests.forwarding import Forwarding
from ovs_vhost_plugin.daemon.guests.kept_moves import KeptMoves
from ovs_vhost_plugin.daemon.guests.moves import Moves
from ovs_vhost_plugin.daemon.handover.upgrading import Upgrading
from ovs_vhost_plugin.daemon.loop import Loop
from ovs_vhost_plugin.daemon.metrics.scraping import Scraping
from ovs_vhost_plugin.daemon.options import Options
from ovs_vhost_plugin.daemon.ovsdb.database import Database, Standing
from ovs_vhost_plugin.daemon.poller import LoopPoller
from ovs_vhost_plugin.daemon.ports import Ports
from ovs_vhost_plugin.daemon.sockets.listener import FrontEndListeners
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts
from ovs_vhost_plugin.daemon.sockets.reach import Reach
from ovs_vhost_plugin.daemon.sockets.waywatch import WayWatch
from ovs_vhost_plugin.daemon.taps.reopening import TapReopener
from ovs_vhost_plugin.daemon.taps.seclusion import Seclusion
from ovs_vhost_plugin.daemon.workers.uids import Uids, worker_ids
from ovs_vhost_plugin.daemon.workers.workers import Workers
from ovs_vhost_plugin.jit import cache
from ovs_vhost_plugin.tap import HostStack, Taps
from ovs_vhost_plugin.vswitchd import json_parser
from ovs_vhost_plugin.vswitchd.unixctl import Switchd

vlog = Vlog("vhost_main")

WORKER_MODULE = "ovs_vhost_plugin.worker.process"
"""The workers' module, by name: only the fork server imports it, with compiler and kernels."""


def main(argv: Sequence[str] | None = None, worker_module: str = WORKER_MODULE) -> int:
    """Run the daemon until it is told to exit. `worker_module`: see `workers/forkserver.py`."""
    process.restrict_umask()
    rundir = dirs.set_up()
    chosen = options.parse(sys.argv[1:] if argv is None else argv, rundir)
    try:
        state = StateDir.create(rundir)
    except (OSError, ValueError) as reason:
        ovs.util.ovs_fatal(0, f"cannot use the run directory: {reason}")
    ovs.daemon.daemonize_start()
    process.raise_fd_limit()
    json_parser.install()
    _choose_cache()
    workers = Workers(worker_module, state, quiet=ovs.daemon.get_detach())
    workers.start_fork_server(time.monotonic())
    # Open vSwitch's own daemons make their sockets with this mode (lib/socket-util-unix.c,
    # bind_unix_socket). The bindings change the mode only after others could connect, and by the
    # fd, which on Linux does not change the socket's name.
    with process.umask(0o007):
        error, unixctl = ovs.unixctl.server.UnixctlServer.create(chosen.unixctl)
    if error:
        return 1
    loop = _compose(chosen, state, workers, rundir)
    scraping = Scraping(loop, rundir)
    captures = Captures(loop, rundir)
    commands = Commands(loop, chosen, scraping, captures)
    kept = KeptMoves(loop.moves, state.migrations, ThreadPoolExecutor(1, "moves"))
    ovs.fatal_signal.add_hook(kept.close, None, True)  # by SIGTERM no `finally` is run
    ovs.daemon.daemonize_complete()
    vlog.info(f"serving {chosen.database}")
    try:
        _run(loop, commands, scraping, captures, kept, unixctl)
    except OSError as error:
        if not (advice := process.fds_exhausted(error)):
            raise
        vlog.emer(advice)
        return 1
    finally:
        unixctl.close()
        captures.close(time.monotonic())
        scraping.close()
        loop.close()
    return 0


def _choose_cache() -> None:
    """Choose the kernels' cache, and log if there is none: the fork server's log is not ours."""
    found = cache.find()
    if found.refusal:
        vlog.warn(found.refusal)
    os.environ[cache.VARIABLE] = os.fspath(cache.place())


def _compose(chosen: Options, state: StateDir, workers: Workers, rundir: Path) -> Loop:
    made = formats.installed()
    place = chosen.database, os.fspath(rundir)
    database = Database(*place, formats=made.keys(), adopts=chosen.adopt_dpdk_types)
    taps = Taps(state)
    taps_thread = ThreadPoolExecutor(1, "taps")
    taps_thread.submit(taps.prepare)
    seclusion = Seclusion(HostStack())
    mounts = Mounts()
    listeners = FrontEndListeners(state, mounts, workers.dispose)
    uids = Uids.of_machine(state)
    ports = Ports(workers, taps, taps_thread, seclusion, state, chosen, listeners, uids)
    reach = Reach(rundir, state, chosen.database, workers.pids, mounts, workers.dispose)

    def may_try() -> bool:
        return not workers.disposal.full

    connector = Connector(
        workers.links,
        reach.connect,
        WayWatch(time.monotonic()),
        ports.faults.counters,
        random.random,
        workers.dispose,
        may_try,
    )
    switchd = Switchd()
    moves = Moves()
    announcing = Announcing(workers.tell, switchd, moves, made)
    forwarding = Forwarding(workers.tell, switchd, moves)
    reopener = TapReopener(taps, ports.taps.unopened, switchd)
    make_ids = partial(worker_ids, chosen, uids)
    upgrading = Upgrading(ports, make_ids, by_itself=chosen.upgrade_workers)
    parts = (connector, announcing, forwarding, moves, reopener, switchd, upgrading)
    return Loop(database, ports, *parts)


def _run(
    loop: Loop,
    commands: Commands,
    scraping: Scraping,
    captures: Captures,
    kept: KeptMoves,
    unixctl: ovs.unixctl.server.UnixctlServer,
) -> None:
    while True:
        now = time.monotonic()
        events = loop.turn(now)
        commands.take(events)
        scraping.take(events)
        scraping.run(now)
        captures.take(events, now)
        captures.run(now)
        unixctl.run()
        commands.run(now)
        kept.run(now, serving=loop.database.standing is Standing.ACTIVE)
        Vlog.run(now)
        if loop.exiting:
            return
        poller = LoopPoller()
        loop.wait(poller, now)
        scraping.wait(poller, now)
        captures.wait(poller)
        unixctl.wait(poller)
        kept.wait(poller)
        Vlog.wait(poller)
        if (due := commands.get_timer()) is not None:
            poller.timer_wait_until(due * 1e3)
        poller.block()
