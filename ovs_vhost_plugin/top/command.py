# SPDX-License-Identifier: Apache-2.0
"""The command: asks the daemon once an interval, shows what it says, and follows keys."""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from rich.console import Console
from rich.live import Live

from ovs_vhost_plugin.common import dirs
from ovs_vhost_plugin.control import CommandError, add_format, add_target, ask, positive
from ovs_vhost_plugin.top.keyboard import Keyboard
from ovs_vhost_plugin.top.model import AT_ONCE, Answer, LivePorts, PortRow
from ovs_vhost_plugin.top.screen import screen, table
from ovs_vhost_plugin.top.view import Order, View

LEAST_INTERVAL = 0.2
_FIRST = 0.5  # seconds until the second question, which has the first rates
_WIDTH = 80

Ask = Callable[[Sequence[str]], Answer]


def _seconds(text: str) -> float:
    value = float(text)
    if not LEAST_INTERVAL <= value <= 3600:
        raise argparse.ArgumentTypeError(f"not from {LEAST_INTERVAL} to 3600: {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog=f"{dirs.PROGRAM} top",
        description="Show the ports live, the busiest first: packets, bits, drops, kicks and "
        "wakeups a second, how full their rings are, migrations and announcements. Received (rx) "
        "and transmitted (tx) are as the guest sees them. Keys: s sorts by another column, / "
        "filters, the arrows and Enter show one port in detail, q ends. It costs the data path "
        "nothing, and the daemon one question an interval.",
        epilog="Example: ovs-vhost top --once --format json",
    )
    made.add_argument("ports", nargs="*", metavar="PORT", help="only these (default: all)")
    add_format(made, "a table to read, or a JSON object an interval")
    add_target(made)
    made.add_argument(
        "--interval",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="the time from one look to the next (default: %(default)g)",
    )
    made.add_argument(
        "--sort",
        choices=[order.value for order in Order],
        default=Order.BITS.value,
        help="the column to sort by at first (default: %(default)s)",
    )
    made.add_argument("--count", type=positive, metavar="N", help="print N times, and end")
    made.add_argument("--once", action="store_true", help="the same as --count 1")
    return made


def main(argv: Sequence[str]) -> int:
    """Show the ports until somebody has seen enough. Raises CommandError."""
    args = parser().parse_args(argv)
    count = 1 if args.once else args.count
    view = View(order=Order(args.sort))
    ports = LivePorts(args.ports)

    def asks(names: Sequence[str]) -> Answer:
        return _ask(args.target, names)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale may lack a name's letters
    try:
        signal.signal(signal.SIGTERM, _end)
        if count is None and args.format == "text" and sys.stdout.isatty():
            _live(asks, ports, view, args)
        else:
            _print(asks, ports, view, args, count)
    except (KeyboardInterrupt, EOFError):
        pass
    return 0


def _ask(target: str, names: Sequence[str]) -> Answer:
    """Ask the daemon. Raises CommandError, whose text says what to do."""
    try:
        answer: Answer = ask(target, "vhost/top", names)
    except CommandError as error:
        if "not a valid command" in str(error):  # as the bindings' unixctl says it
            raise CommandError(
                "the daemon is of a release before and has no live view; restart it with "
                "'systemctl restart ovs-vhost', which leaves the ports working"
            ) from error
        raise
    return answer


def _end(number: int, _frame: object) -> NoReturn:
    """End as by the signal, but let the terminal be put right first."""
    raise SystemExit(128 + number)


def _live(asks: Ask, ports: LivePorts, view: View, args: argparse.Namespace) -> None:
    """Show the screen until a key ends it."""
    asked: Sequence[str] = args.ports[:AT_ONCE]
    ports.take(asks(asked), asked)
    console, trouble = Console(highlight=False), ""
    due = time.monotonic() + min(_FIRST, args.interval)
    fd = sys.stdin.fileno() if sys.stdin.isatty() else None
    with Keyboard(fd) as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            size = console.size
            shown, names = screen(ports, view, size.width, size.height, trouble)
            live.update(shown, refresh=True)
            for key in keyboard.wait(due - time.monotonic()):
                if not view.press(key, view.arrange(ports.rows())):
                    return
            if time.monotonic() >= due:
                asked = ports.next_question(names)
                try:
                    ports.take(asks(asked), asked)
                    trouble = ""
                except CommandError as error:
                    trouble = str(error)
                due = time.monotonic() + args.interval


def _print(
    asks: Ask, ports: LivePorts, view: View, args: argparse.Namespace, count: int | None
) -> None:
    """Print all ports `count` times, or without end."""
    _look(asks, ports, args.ports)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    printed = 0
    while printed != count:
        time.sleep(args.interval)
        _look(asks, ports, args.ports)
        rows = view.arrange(ports.rows())
        if args.format == "json":
            print(json.dumps(_as_json(ports, rows)), flush=True)
        else:
            console.print(table(rows, view))
            sys.stdout.flush()
        printed += 1


def _look(asks: Ask, ports: LivePorts, only: Sequence[str]) -> None:
    """Ask for every port, some at a time."""
    if not ports.names:
        first = only[:AT_ONCE]
        ports.take(asks(first), first)
    names = ports.names
    for at in range(0, len(names), AT_ONCE):
        some = names[at : at + AT_ONCE]
        ports.take(asks(some), some)


def _as_json(ports: LivePorts, rows: Iterable[PortRow]) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "standing": ports.standing,
        "ports": [_port(row) for row in rows],
        "events": [
            {"seconds_ago": round(max(0.0, e.ago), 3), "port": e.port, "event": e.text}
            for e in ports.events
        ],
    }


_SHOWN = ("rx_packets", "rx_bits", "tx_packets", "tx_bits", "drops", "kicks", "wakeups")


def _port(row: PortRow) -> dict[str, Any]:
    rates = {name: row.rate(name) for name in _SHOWN}
    fills = {"rx_ring_percent": row.fill(0), "tx_ring_percent": row.fill(1)}
    about = {"port": row.name, "bridge": row.bridge, "status": row.status, "error": row.error}
    return {**about, **{f"{n}_per_second": rate for n, rate in rates.items()}, **fills}
