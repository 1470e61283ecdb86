# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost COMMAND`: the command line, which asks the daemon or becomes it.

What a command needs is imported when it runs, so that `ovs-vhost show` loads no compiler.
"""

import argparse
import errno
import importlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import ovs.daemon
import ovs.unixctl
import ovs.unixctl.client

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.common import dirs

_TIMEOUT = 15  # seconds for the daemon's answer; an announcement takes up to 10

_HELP = """\
commands:
  daemon               make vhost-user ports of the switch's rows
  show                 list the ports
  stats [PORT]         show the counters
  announce PORT [MAC]  tell the network where the port's guest is
  announce-log [PORT]  show what was announced, and what came of it
  hold-log [PORT]      show what was held for guests that migrated away, and what came of it
  demo                 a live migration between two private hosts
COMMAND --help tells the options of each.
"""


class CommandError(Exception):
    """A command failed; the text is for the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args.arguments)
    except CommandError as error:
        print(f"{dirs.PROGRAM}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1  # `ovs-vhost show | head`


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=dirs.PROGRAM,
        description="vhost-user ports for a stock Open vSwitch.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", choices=list(_COMMANDS), metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    return parser


def _daemon(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.daemon", argv)


def _demo(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.demo", argv)


def _main_of(module: str, argv: Sequence[str]) -> int:
    status: int = importlib.import_module(module).main(argv)
    return status


def _show(argv: Sequence[str]) -> int:
    args = _query_parser("show", "List the vhost-user ports.").parse_args(argv)
    return _print(_ask(args.target, "vhost/show", []), args.format, "show")


def _stats(argv: Sequence[str]) -> int:
    parser = _query_parser("stats", "Show the counters of the vhost-user ports.")
    parser.add_argument("port", nargs="?", metavar="PORT", help="only this one")
    args = parser.parse_args(argv)
    return _print(_ask(args.target, "vhost/stats", [args.port]), args.format, "stats")


def _announce(argv: Sequence[str]) -> int:
    parser = _query_parser("announce", "Tell the network where a port's guest is.")
    parser.add_argument("port", metavar="PORT")
    parser.add_argument("mac", nargs="?", metavar="MAC", help="default: the guest's, where known")
    args = parser.parse_args(argv)
    result = _ask(args.target, "vhost/announce", [args.port, args.mac])
    _print(result, args.format, "announcement")
    return 0 if result["outcome"] in ("learned", "active") else 1


def _announce_log(argv: Sequence[str]) -> int:
    parser = _query_parser("announce-log", "Show what was announced, and what came of it.")
    parser.add_argument("port", nargs="?", metavar="PORT", help="only this one")
    args = parser.parse_args(argv)
    return _print(_ask(args.target, "vhost/announce-log", [args.port]), args.format, "announce_log")


def _hold_log(argv: Sequence[str]) -> int:
    parser = _query_parser("hold-log", "Show what was held for guests that migrated away.")
    parser.add_argument("port", nargs="?", metavar="PORT", help="only this one")
    args = parser.parse_args(argv)
    return _print(_ask(args.target, "vhost/hold-log", [args.port]), args.format, "hold_log")


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "daemon": _daemon,
    "show": _show,
    "stats": _stats,
    "announce": _announce,
    "announce-log": _announce_log,
    "hold-log": _hold_log,
    "demo": _demo,
}


def _query_parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{dirs.PROGRAM} {command}", description=description)
    parser.add_argument("-f", "--format", choices=["text", "json"], default="text")
    parser.add_argument(
        "-t",
        "--target",
        metavar="DAEMON",
        default=dirs.PROGRAM,
        help="name or control socket of the daemon (default: %(default)s)",
    )
    return parser


def _ask(target: str, command: str, arguments: Sequence[str | None]) -> Any:
    """Ask the daemon; its answer, read from JSON."""
    dirs.set_up()
    words = [word for word in arguments if word is not None]
    signal.signal(signal.SIGALRM, _timed_out)
    signal.alarm(_TIMEOUT)
    try:
        refusal, answer = _transact(_control_socket(target), command, words)
    finally:
        signal.alarm(0)
    if refusal is not None:
        raise CommandError(refusal)
    return json.loads(answer)


def _transact(path: str, command: str, words: Sequence[str]) -> tuple[str | None, str]:
    """One request: what the daemon said against it, or None, and its answer."""
    error, client = ovs.unixctl.client.UnixctlClient.create(path)
    if error:
        _unreachable(path, error)
    error, refusal, answer = client.transact(command, [*words, "--format", "json"])
    client.close()
    if error:
        _unreachable(path, error)
    return refusal, answer


def _control_socket(target: str) -> str:
    error, path = ovs.unixctl.socket_name_from_target(target)
    if error:
        _unreachable(path, error)
    found: str = path
    return found


def _unreachable(what: str, error: int) -> NoReturn:
    """Say why the daemon does not answer, and what to do about it."""
    if error in (errno.EACCES, errno.EPERM):
        raise CommandError(f"{what}: permission denied; run as root")
    if error in (errno.ENOENT, errno.ESRCH, errno.ECONNREFUSED):
        raise CommandError(
            "the daemon is not running; start it with 'systemctl start ovs-vhost' "
            "or 'ovs-vhost daemon --detach' (OVS_RUNDIR names its run directory)"
        )
    raise CommandError(f"{what}: {os.strerror(error)}")


def _timed_out(_signal: int, _frame: object) -> NoReturn:
    raise CommandError(f"the daemon did not answer within {_TIMEOUT} s")


def _print(data: Any, form: str, kind: str) -> int:
    from ovs_vhost_plugin import render

    text = render.as_json(data) if form == "json" else getattr(render, kind)(data)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may lack a name's letters
    print(text, end="", flush=True)
    return 0
