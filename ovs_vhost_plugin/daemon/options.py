# SPDX-License-Identifier: Apache-2.0
"""The daemon's command line: the OVS family's options and a few of its own."""

import argparse
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ovs.daemon
import ovs.vlog

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.common.dirs import PROGRAM
from ovs_vhost_plugin.common.logs import jsonlog, textlog
from ovs_vhost_plugin.daemon.sockets.listener import Owner

DEFAULT_SOCK_MODE = 0o660
"""Owner and group may connect, the world may not: a peer of a port's socket owns that NIC.

The group may because QEMU runs as a user of its own that need not own the socket (`--sock-owner`).
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's options, besides those that the bindings keep for themselves."""

    database: str
    unixctl: str | None
    adopt_dpdk_types: bool
    worker_user: Owner | None
    sock_owner: Owner | None
    sock_mode: int
    upgrade_workers: bool = True


def parse(argv: Sequence[str], rundir: Path) -> Options:
    """Read `argv`, and pass the OVS family's options to the bindings. Exits as argparse does."""
    reader = parser(rundir)
    args = reader.parse_args(argv)
    if args.database and args.db:
        reader.error("the database is given twice: as an argument and with --db")
    # ovs-appctl finds a daemon by its pidfile.
    args.pidfile = args.pidfile or ovs.daemon.make_pidfile_name(None)
    textlog.install()
    ovs.vlog.handle_args(args)
    if args.log_format == "json":
        jsonlog.install()
    ovs.daemon.handle_args(args)
    return Options(
        database=args.database or args.db or f"unix:{rundir}/db.sock",
        unixctl=args.unixctl,
        adopt_dpdk_types=args.adopt_dpdk_types,
        worker_user=args.worker_user,
        sock_owner=args.sock_owner,
        sock_mode=args.sock_mode,
        upgrade_workers=not args.keep_workers,
    )


def parser(rundir: Path) -> argparse.ArgumentParser:
    """The parser, whose defaults are in `rundir`. The man page is made from it too."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} daemon",
        description="Make a vhost-user port of each row of the switch's database that asks for "
        "one, and keep it until the row goes. The ports outlive the daemon: the next one takes "
        "them over.",
    )
    parser.add_argument(
        "database",
        nargs="?",
        metavar="DATABASE",
        help=f"the switch's database (default: unix:{rundir}/db.sock)",
    )
    parser.add_argument("--db", metavar="DATABASE", help="the same, as ovs-vsctl takes it")
    parser.add_argument(
        "--unixctl",
        metavar="SOCKET",
        help=f"the control socket for ovs-appctl (default: {rundir}/{PROGRAM}.PID.ctl)",
    )
    parser.add_argument(
        "-V",
        "--version",
        action="version",
        version=f"{PROGRAM} {__version__}",
        help="print the version and exit",
    )
    _add_port_options(parser)
    ovs.daemon.add_args(parser)
    ovs.vlog.add_args(parser)
    parser.add_argument(
        "--log-format",
        choices=["text", "json"],
        default="text",
        help="a line as every Open vSwitch daemon logs it, or a JSON object a line for a "
        "collector, in the log file and on the console (default: %(default)s)",
    )
    return parser


def _add_port_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(title="Port Options")
    group.add_argument(
        "--adopt-dpdk-types",
        action="store_true",
        help="take over ports of type dpdkvhostuser and dpdkvhostuserclient, and list these types "
        "in Open_vSwitch:iface_types; on a switch without DPDK only",
    )
    group.add_argument(
        "--worker-user",
        metavar="USER[:GROUP]",
        type=_worker_user,
        help="run the processes of all ports as this user (default: each as an unprivileged user "
        "of its own)",
    )
    group.add_argument(
        "--sock-owner",
        metavar="USER[:GROUP]",
        type=_owner,
        help="the owner of the sockets on which ports listen in server mode: QEMU's user "
        "(default: the daemon's)",
    )
    group.add_argument(
        "--sock-mode",
        metavar="MODE",
        type=_mode,
        default=DEFAULT_SOCK_MODE,
        help=f"the permissions of these sockets, in octal (default: {DEFAULT_SOCK_MODE:04o})",
    )

    group.add_argument(
        "--keep-workers",
        action="store_true",
        help="do not replace running processes of ports that another release has started "
        "(default: each hands its port over to a new one; vhost/upgrade does that at any time)",
    )


def _owner(text: str) -> Owner:
    try:
        return Owner.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _worker_user(text: str) -> Owner:
    owner = _owner(text)
    if owner.gid >= 0:
        return owner
    try:
        return Owner(owner.uid, pwd.getpwuid(owner.uid).pw_gid)
    except KeyError:
        raise argparse.ArgumentTypeError(f"user {text} has no group; give one") from None


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is no octal mode such as 0660")
    return mode
