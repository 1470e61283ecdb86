# SPDX-License-Identifier: Apache-2.0
"""Asks the daemon by its control socket, as ovs-appctl does."""

import argparse
import errno
import json
import os
import signal
from collections.abc import Sequence
from typing import Any, NoReturn

import ovs.daemon
import ovs.unixctl
import ovs.unixctl.client

from ovs_vhost_plugin.common import dirs
from ovs_vhost_plugin.vswitchd import json_parser

_TIMEOUT = 15  # seconds for the daemon's answer; an announcement takes up to 10


class CommandError(Exception):
    """A command failed; the text is for the user."""


class NotRunning(CommandError):  # noqa: N818 - a state of the machine's
    """The daemon is not there."""


def add_target(parser: argparse.ArgumentParser) -> None:
    """Give a command the option of which daemon it asks."""
    parser.add_argument(
        "-t",
        "--target",
        metavar="DAEMON",
        default=dirs.PROGRAM,
        help="name or control socket of the daemon (default: %(default)s)",
    )


def add_format(parser: argparse.ArgumentParser, shown: str = "a table to read, or JSON") -> None:
    """Give a command the option of how it answers; `shown`: in text, or else."""
    parser.add_argument(
        "-f",
        "--format",
        choices=["text", "json"],
        default="text",
        help=f"{shown} for a program (default: %(default)s)",
    )


def positive(text: str) -> int:
    """The type of an option that is a number of times or things."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"not 1 or more: {text!r}")
    return value


def ask(target: str, command: str, arguments: Sequence[str | None]) -> Any:
    """Ask the daemon; return its answer, decoded from JSON. Raises CommandError."""
    dirs.set_up()
    json_parser.install()
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
    """Send one request; return the daemon's error, or None, and its answer."""
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
    """Fail with the reason why the daemon does not answer, and a remedy."""
    if error in (errno.EACCES, errno.EPERM):
        raise CommandError(f"{what}: permission denied; run as root")
    if error in (errno.ENOENT, errno.ESRCH, errno.ECONNREFUSED):
        raise NotRunning(
            "the daemon is not running; start it with 'systemctl start ovs-vhost' "
            "or 'ovs-vhost daemon --detach' (OVS_RUNDIR names its run directory)"
        )
    raise CommandError(f"{what}: {os.strerror(error)}")


def _timed_out(_signal: int, _frame: object) -> NoReturn:
    raise CommandError(f"the daemon did not answer within {_TIMEOUT} s")
