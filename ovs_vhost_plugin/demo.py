# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost demo`: a live migration on private hosts, and a timeline of its events.

Two hosts with their own Open vSwitch and daemon, a third switch between them, a guest, a steady
flow of packets to it, a live migration.  All of it is in namespaces and a temporary directory of
its own, and is gone at the end, however the demo ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.interruption import HEARD_WITHIN
from ovs_vhost_plugin.lab.measure import picture
from ovs_vhost_plugin.lab.measure.timeline import Report
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.lab.stage import Stage
from ovs_vhost_plugin.lab.takedown import INTERRUPTED, taken_down

_MISSING, _FAILED = 1, 1


def parser() -> argparse.ArgumentParser:
    """The parser of the command's options; the man page is made from it too."""
    parser = argparse.ArgumentParser(
        prog="ovs-vhost demo",
        description="Migrate a live guest between two private hosts, each with an Open vSwitch "
        "and a daemon of its own, while packets are sent to it; then print a timeline. All of it "
        "is in namespaces and a temporary directory, and is gone at the end, however it ends.",
    )
    parser.add_argument(
        "--guest",
        choices=["qemu", "soft"],
        default="qemu",
        help="a Linux guest in QEMU, or the built-in software guest, which needs no QEMU "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--announce",
        choices=["rarp", "guest"],
        default="rarp",
        help="who tells the network after the move: the daemon, which SEND_RARP asks to, or the "
        "guest itself, with GUEST_ANNOUNCE (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=["table", "json"],
        default="table",
        help="print the result as a table, or as JSON for a program (default: %(default)s)",
    )
    parser.add_argument(
        "--svg",
        metavar="FILE",
        help="write the timeline as a picture into this file (default: a new one in the directory "
        "for temporary files; none with --format json)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave it all running until Ctrl-C, to look around"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """`ovs-vhost demo ARGV…`; the exit status."""
    return run(parser().parse_args(argv))


def run(options: argparse.Namespace) -> int:
    """Run the demo; the exit status is 0 when the guest was found again and no data was damaged."""
    needed = (*packages.SWITCH, *(packages.GUEST if options.guest == "qemu" else ()))
    if words := packages.missing(needed):
        print(f"ovs-vhost demo: {words}", file=sys.stderr)
        return _MISSING
    try:
        with taken_down():
            report = _show(options, Console(stderr=True))
    except LabError as error:
        print(f"ovs-vhost demo: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("ovs-vhost demo: interrupted; all of it is taken down", file=sys.stderr)
        return INTERRUPTED
    return 0 if report.found and not report.damaged else _FAILED


def _show(options: argparse.Namespace, screen: Console) -> Report:
    """Run the demo with its progress on `screen`, and print its report."""
    announces = options.announce == "guest"
    with screen.status("starting") as status:
        # A log, a pipe: a line for each step, where a terminal has a spinner.
        progress = status.update if screen.is_terminal else screen.print
        with Stage(options.guest, announces=announces, progress=progress) as stage:
            report = _play(stage, options, status, screen)
    return report


def _play(stage: Stage, options: argparse.Namespace, status: Status, screen: Console) -> Report:
    report = stage.migrate()
    status.stop()
    if options.format == "json":
        print(json.dumps(report.as_dict(), indent=2), flush=True)
    else:
        _print(report)
    if options.svg or options.format != "json":
        screen.print(f"timeline   {_draw(report, options.svg)}", highlight=False, soft_wrap=True)
    if options.keep:
        _keep(stage, screen)
    status.start()
    return report


def _print(report: Report) -> None:
    who = {"rarp": "announced by SEND_RARP", "guest": "announces itself (GUEST_ANNOUNCE)"}
    table = Table(title=f"Live migration, guest {report.guest}, {who[report.announce]}")
    table.add_column("ms", justify="right")
    table.add_column("what")
    table.add_column("where")
    for row in report.rows():
        table.add_row(f"{row.milliseconds:+.1f}", row.what, row.where)
    screen = Console()
    screen.print(table)
    screen.print(
        f"packets    {report.sent} sent, {report.lost} lost, {report.damaged} damaged, "
        f"{report.reordered} overtaken by later ones"
    )
    screen.print(
        f"outage     {report.outage_ms:.1f} ms, of which {report.downtime_ms:.1f} ms "
        f"are the hypervisor's own downtime; no packet took longer than {report.delay_ms:.1f} ms"
    )
    if not report.found:
        screen.print("The network did not find the guest again.")


def _draw(report: Report, path: str | None) -> str:
    """Write the timeline as a picture; return where it is. Raises LabError."""
    try:
        if path is None:
            # A name that nobody can have guessed: others may write into the directory.
            fd, path = tempfile.mkstemp(prefix="ovs-vhost-demo-", suffix=".svg")
            os.close(fd)
        Path(path).write_text(picture.svg(report))
    except OSError as error:
        raise LabError(f"the timeline was not written: {error}") from error
    return path


def _keep(stage: Stage, screen: Console) -> None:
    """Print how to look around, and wait for Ctrl-C (or SIGTERM), which ends the wait in order."""
    for host in (stage.fabric.a, stage.fabric.b):
        screen.print(f"ip netns exec {host.namespace.name} tcpdump -ni any", highlight=False)
        screen.print(f"ovs-vsctl --db={host.switch.db} show", highlight=False)
        rundir = f"OVS_RUNDIR={host.directory}"
        screen.print(f"{rundir} ovs-vhost show", highlight=False)
        screen.print(f"{rundir} ovs-appctl fdb/show {BRIDGE}", highlight=False)
    screen.print("Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        wait_until(lambda: None, "the end", math.inf, HEARD_WITHIN)
