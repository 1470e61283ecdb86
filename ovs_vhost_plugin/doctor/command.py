# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost doctor`: each thing that is wrong, and the command that mends it."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from ovs_vhost_plugin.common import dirs
from ovs_vhost_plugin.control import add_format, add_target
from ovs_vhost_plugin.doctor import checks, facts
from ovs_vhost_plugin.doctor.checks import Finding

NOTHING, FINDINGS, NOT_LOOKED = 0, 1, 2
"""Exit statuses."""

_WIDTH = 80


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    rundir = dirs.set_up()
    made = argparse.ArgumentParser(
        prog=f"{dirs.PROGRAM} doctor",
        description="Look at the machine, the switch, its database, the daemon and every port that "
        "does not run, and print what is wrong with the command that mends it. It changes nothing. "
        "The exit status is 0 if nothing was found, 1 if something was, and 2 if something could "
        "not be looked at and nothing else was found.",
        epilog="Example: ovs-vhost doctor --format json",
    )
    add_format(made, "lines to read, or JSON")
    add_target(made)
    made.add_argument(
        "--db",
        metavar="DATABASE",
        default=f"unix:{rundir}/db.sock",
        help="the switch's database (default: %(default)s)",
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Look and print; return the exit status."""
    args = parser().parse_args(argv)
    if os.geteuid() != 0:
        print("ovs-vhost doctor: only root sees all: run it as root", file=sys.stderr)
        return NOT_LOOKED
    found = facts.gather(args.db, args.target)
    wrong, notes = checks.findings(found), checks.notes(found)
    if args.format == "json":
        told = [asdict(one) for one in wrong]
        data = {"findings": told, "notes": notes, "unseen": found.unseen}
        print(json.dumps(data, indent=2))
    else:
        _print(wrong, notes, found.unseen)
    if wrong:
        return FINDINGS
    return NOT_LOOKED if found.unseen else NOTHING


def _print(wrong: Sequence[Finding], notes: Sequence[str], unseen: Sequence[str]) -> None:
    screen = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    for one in wrong:
        screen.print(Text.assemble((one.about, "bold red"), f": {one.what}"), soft_wrap=True)
        if one.means:
            screen.print(Text(_indented(one.means)), soft_wrap=True)
        # Not wrapped: it is to be copied.
        screen.print(Text.assemble("  mend: ", (one.mend, "green")), soft_wrap=True)
    for text in notes:
        screen.print(Text(textwrap.fill(f"note: {text}", _WIDTH)), soft_wrap=True)
    for text in unseen:
        screen.print(Text(f"not looked at: {text}"), soft_wrap=True)
    if not wrong and not unseen:
        screen.print("nothing is wrong")


def _indented(text: str) -> str:
    return textwrap.indent(textwrap.fill(text, _WIDTH - 2), "  ")
