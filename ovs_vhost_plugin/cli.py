# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost COMMAND`: the command line, which asks the daemon or becomes it.

Each command imports its modules when it runs, so that `ovs-vhost show` loads no compiler.
"""

import argparse
import importlib
import io
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.common import dirs
from ovs_vhost_plugin.control import CommandError, add_format, add_target, ask

DESCRIPTION = "vhost-user ports for a stock Open vSwitch."

ENVIRONMENT = {
    "OVS_RUNDIR": "the run directory of the switch (default: /var/run/openvswitch)",
    "OVS_LOGDIR": "the directory of log files (default: /var/log/openvswitch)",
    "OVS_VHOST_CACHE_DIR": "the directory of compiled kernels, which only root may write "
    "(default: /var/cache/ovs-vhost)",
    "OVS_VHOST_IO_URING": "on or off: whether guests' frames go to their taps by io_uring, several "
    "at once (default: where it is measured to pay at the start)",
}
"""Environment variables that the program reads → meanings, for `--help` and the man page."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    args = _parser().parse_args(argv)
    try:
        return COMMANDS[args.command].run(args.arguments)
    except CommandError as error:
        print(f"{dirs.PROGRAM}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1  # `ovs-vhost show | head`


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `--help` and the man page are made from it."""

    arguments: str
    """The positional arguments, as a user writes them."""
    summary: str
    parser: Callable[[], argparse.ArgumentParser]
    """Makes the parser of the command's own options."""
    run: Callable[[Sequence[str]], int]
    """Takes the words behind the command's name and returns the exit status."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=dirs.PROGRAM,
        description=DESCRIPTION,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "command", choices=list(COMMANDS), metavar="COMMAND", help="one of those below"
    )
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments and options"
    )
    return parser


def _epilog() -> str:
    """The commands and the environment, each with its meaning."""
    commands = {
        f"{name} {command.arguments}": command.summary for name, command in COMMANDS.items()
    }
    lines = ["commands:", *_columns(commands), "", "environment:", *_columns(ENVIRONMENT), ""]
    return "\n".join([*lines, "COMMAND --help tells the options of each."])


def _columns(meanings: Mapping[str, str]) -> list[str]:
    width = max(map(len, meanings))
    blank = " " * (width + 4)
    return [
        line
        for name, meaning in meanings.items()
        for line in textwrap.wrap(
            meaning, 96, initial_indent=f"  {name:<{width}}  ", subsequent_indent=blank
        )
    ]


def _daemon_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin.daemon import options

    return options.parser(dirs.set_up())


def _daemon(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.daemon", argv)


def _demo_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin import demo

    return demo.parser()


def _demo(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.demo", argv)


def _try_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin import trial

    return trial.parser()


def _try(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.trial", argv)


def _watch_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin import watch

    return watch.parser()


def _watch(argv: Sequence[str]) -> int:
    from ovs_vhost_plugin import watch

    try:
        return watch.main(argv)
    except watch.WatchError as error:
        raise CommandError(str(error)) from error


def _doctor_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin.doctor import command

    return command.parser()


def _doctor(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.doctor.command", argv)


def _capture_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin.capture import command

    return command.parser()


def _capture(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.capture.command", argv)


def _top_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin.top import command

    return command.parser()


def _top(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.top.command", argv)


def _bench_parser() -> argparse.ArgumentParser:
    from ovs_vhost_plugin.bench import command

    return command.parser()


def _bench(argv: Sequence[str]) -> int:
    return _main_of("ovs_vhost_plugin.bench.command", argv)


def _main_of(module: str, argv: Sequence[str]) -> int:
    status: int = importlib.import_module(module).main(argv)
    return status


def _show_parser() -> argparse.ArgumentParser:
    return _query_parser("show", "List the vhost-user ports, and what is wrong with each.")


def _show(argv: Sequence[str]) -> int:
    args = _show_parser().parse_args(argv)
    return _print(ask(args.target, "vhost/show", []), args.format, "show")


def _stats_parser() -> argparse.ArgumentParser:
    parser = _query_parser(
        "stats",
        "Show packets, bytes, drops by reason, faults by name, kicks, calls and wakeups, and the "
        "MACs, VLANs and IP addresses that the guest uses.",
    )
    return _with_port(parser)


def _stats(argv: Sequence[str]) -> int:
    args = _stats_parser().parse_args(argv)
    return _print(ask(args.target, "vhost/stats", [args.port]), args.format, "stats")


def _announce_parser() -> argparse.ArgumentParser:
    parser = _query_parser(
        "announce",
        "Tell the network now where the guest of a port is. Waits until the switch confirms it; "
        "the exit status is 0 if it does.",
    )
    parser.add_argument("port", metavar="PORT", help="the port's name")
    parser.add_argument(
        "mac", nargs="?", metavar="MAC", help="the MAC to announce (default: all that is known)"
    )
    return parser


def _announce(argv: Sequence[str]) -> int:
    args = _announce_parser().parse_args(argv)
    result = ask(args.target, "vhost/announce", [args.port, args.mac])
    _print(result, args.format, "announcement")
    return 0 if result["outcome"] in ("learned", "active") else 1


def _announce_log_parser() -> argparse.ArgumentParser:
    parser = _query_parser(
        "announce-log",
        "Show the last announcements: what asked for each, its result, and the milliseconds "
        "until the switch had learned it.",
    )
    return _with_port(parser)


def _announce_log(argv: Sequence[str]) -> int:
    args = _announce_log_parser().parse_args(argv)
    return _print(ask(args.target, "vhost/announce-log", [args.port]), args.format, "announce_log")


def _hold_log_parser() -> argparse.ArgumentParser:
    parser = _query_parser(
        "hold-log",
        "Show how many frames were held for guests that migrated away, and how many of them were "
        "forwarded, returned, or dropped and why.",
    )
    return _with_port(parser)


def _hold_log(argv: Sequence[str]) -> int:
    args = _hold_log_parser().parse_args(argv)
    return _print(ask(args.target, "vhost/hold-log", [args.port]), args.format, "hold_log")


def _migrations_parser() -> argparse.ArgumentParser:
    parser = _query_parser(
        "migrations",
        "Tell the last migrations that this host saw since it was started, each as a timeline: "
        "of a guest that left, when its rings stopped, when the bridge had it elsewhere, and the "
        "fate of the frames that came meanwhile; of one that came, when its rings ran, when it was "
        "announced and learned, and when its first frame came. Milliseconds count from the stop of "
        "the rings, or from their start.",
        "ovs-vhost migrations vhu0",
    )
    return _with_port(parser)


def _migrations(argv: Sequence[str]) -> int:
    args = _migrations_parser().parse_args(argv)
    return _print(ask(args.target, "vhost/migrations", [args.port]), args.format, "migrations")


def _upgrade_parser() -> argparse.ArgumentParser:
    parser = _query_parser(
        "upgrade",
        "Replace the processes of the ports by new ones, which take over while the guests run. "
        "The exit status is 0 if all are replaced.",
    )
    return _with_port(parser)


def _upgrade(argv: Sequence[str]) -> int:
    args = _upgrade_parser().parse_args(argv)
    result = ask(args.target, "vhost/upgrade", [args.port])
    _print(result, args.format, "upgrade")
    return 0 if all(said.startswith("upgraded") for said in result["ports"].values()) else 1


COMMANDS: dict[str, Command] = {
    "daemon": Command(
        "[DATABASE]", "make vhost-user ports of the switch's rows", _daemon_parser, _daemon
    ),
    "show": Command("", "list the ports", _show_parser, _show),
    "stats": Command("[PORT]", "show the counters", _stats_parser, _stats),
    "announce": Command(
        "PORT [MAC]", "tell the network where the port's guest is", _announce_parser, _announce
    ),
    "announce-log": Command(
        "[PORT]",
        "show the last announcements and their results",
        _announce_log_parser,
        _announce_log,
    ),
    "hold-log": Command(
        "[PORT]",
        "show the frames that were held for guests that migrated away",
        _hold_log_parser,
        _hold_log,
    ),
    "migrations": Command(
        "[PORT]", "tell the migrations that this host saw", _migrations_parser, _migrations
    ),
    "upgrade": Command(
        "[PORT]", "replace the ports' processes while guests run", _upgrade_parser, _upgrade
    ),
    "watch": Command("[PORT]...", "print changes as they happen", _watch_parser, _watch),
    "top": Command("[PORT]...", "show the ports live, the busiest first", _top_parser, _top),
    "capture": Command(
        "PORT", "write what crosses a port's rings, as pcapng", _capture_parser, _capture
    ),
    "doctor": Command("", "say what is wrong and what mends it", _doctor_parser, _doctor),
    "try": Command("", "a port and a VM in private, with its console here", _try_parser, _try),
    "demo": Command("", "a live migration between two private hosts", _demo_parser, _demo),
    "bench": Command("", "measure ours beside the peers, on private hosts", _bench_parser, _bench),
}


def _query_parser(command: str, description: str, example: str = "") -> argparse.ArgumentParser:
    """A parser with the options of every command that asks the daemon."""
    parser = argparse.ArgumentParser(
        prog=f"{dirs.PROGRAM} {command}",
        description=description,
        epilog=f"Example: {example}" if example else None,
    )
    add_format(parser)
    add_target(parser)
    return parser


def _with_port(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("port", nargs="?", metavar="PORT", help="only this port (default: all)")
    return parser


def _print(data: Any, form: str, kind: str) -> int:
    from ovs_vhost_plugin import render

    text = render.as_json(data) if form == "json" else getattr(render, kind)(data)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may lack a name's letters
    print(text, end="", flush=True)
    return 0
