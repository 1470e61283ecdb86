# SPDX-License-Identifier: Apache-2.0
"""ovs-vhost(8), made from the parsers that `--help` prints: the two cannot differ.

`make man` writes docs/ovs-vhost.8. The macros are those of man(7).
"""

import argparse
import os
from collections.abc import Iterator, Mapping

from ovs_vhost_plugin import __version__, cli
from ovs_vhost_plugin.common import dirs

_RUNDIR = "/var/run/openvswitch"

_ABOUT = """\
Each port is a process of its own, a worker, which serves the VM's virtio-net NIC over vhost-user \
and passes its frames through a tap to the bridge. The daemon makes the ports that the switch's \
database asks for, and tells the network where a guest is when it has moved.

A row of the table Interface is a port if its type is empty and it has \
options:vhost-server-path, the socket on which the VM listens, or \
external_ids:vhost-user-mode=server, for a socket on which the port listens.

ovs-appctl -t ovs-vhost takes these commands too, as vhost/show, vhost/stats and so on, and exit: \
the ports work on for the next daemon. With exit --cleanup they end."""

_FILES = {
    f"{_RUNDIR}/db.sock": "the switch's database",
    f"{_RUNDIR}/PORT": "the socket of a port in server mode; "
    "Open_vSwitch other_config:vhost-sock-dir names a directory below",
    f"{_RUNDIR}/{dirs.PROGRAM}/": "control sockets, records and journals of the workers",
    "/etc/default/ovs-vhost": "options of the daemon and its environment, where systemd starts it",
    "/var/cache/ovs-vhost/": "compiled kernels",
    "/run/ovs-vhost/last-uid": "the last user id that was given to a worker",
}

_EXIT = {
    "0": "the command did its work; announce: the switch has confirmed the announcement",
    "1": "it did not, and says why; announce: the switch has not confirmed it",
    "2": "the command line is wrong",
}

_EXAMPLES = {
    "A port that connects to the VM's QEMU": "ovs-vsctl add-port br0 vhu0 -- \\\n"
    "    set Interface vhu0 options:vhost-server-path=/run/vm/vhu0.sock",
    "A port that listens itself": "ovs-vsctl add-port br0 vhu0 -- \\\n"
    "    set Interface vhu0 external_ids:vhost-user-mode=server",
    "Counters, for a program": "ovs-vhost stats vhu0 --format json",
}

_SEE = ["ovs-vsctl(8)", "ovs-appctl(8)", "ovs-vswitchd(8)", "ovs-vswitchd.conf.db(5)"]


def page() -> Iterator[str]:
    """The lines of the whole page."""
    yield '.\\" Made by "make man" from the parsers of the commands; do not edit.'
    yield f'.TH OVS\\-VHOST 8 "" "{_text(dirs.PROGRAM)} {__version__}" "Open vSwitch"'
    yield ".SH NAME"
    yield _text(f"{dirs.PROGRAM} - {cli.DESCRIPTION.rstrip('.')}")
    yield ".SH SYNOPSIS"
    for name, command in cli.COMMANDS.items():
        words = f"{_bold(f'{dirs.PROGRAM} {name}')} [{_italic('option')} ...] {command.arguments}"
        yield words.rstrip()
        yield ".br"
    yield ".SH DESCRIPTION"
    yield _paragraphs(_ABOUT)
    yield ".SH COMMANDS"
    yield _text("Each command has the option --help.")
    for name, command in cli.COMMANDS.items():
        yield f".SS {_text(name)} {_text(command.arguments)}".rstrip()
        yield from _command(command.parser())
    for title, meanings in (("ENVIRONMENT", cli.ENVIRONMENT), ("FILES", _FILES)):
        yield f".SH {title}"
        yield from _definitions(meanings)
    yield ".SH EXIT STATUS"
    yield from _definitions(_EXIT)
    yield ".SH EXAMPLES"
    for what, example in _EXAMPLES.items():
        yield from (".PP", f"{_text(what)}:", ".PP", ".RS 4", ".EX", _text(example), ".EE", ".RE")
    yield ".SH SEE ALSO"
    yield _text(", ".join(_SEE))
    yield ".PP"
    yield _text("docs/README.md of the source has a page for each subject; docs/configuration.md")
    yield _text("has every key of the database.")


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield _paragraphs(parser.description or "")
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        if actions and group.title and group.title.endswith(" Options"):
            yield from (".PP", _italic(group.title))
        for action in actions:
            yield from (".TP", _usage(action), _text(_help(parser, action)))
    if parser.epilog:
        yield from (".PP", _text(parser.epilog))


def _usage(action: argparse.Action) -> str:
    """An option's names and its argument, as `-f, --format text|json`."""
    names = ", ".join(_bold(name) for name in action.option_strings)
    return f"{names} {_argument(action)}".strip()


def _argument(action: argparse.Action) -> str:
    name = str(action.metavar or "") or "|".join(action.choices or ()) or action.dest.upper()
    match action.nargs:
        case 0:
            return ""
        case "?" if action.option_strings:
            return f"[{_italic(name)}]"
        case "*":
            return f"[{_italic(name)} ...]"
        case _:
            return _italic(name)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": parser.prog}


def _definitions(meanings: Mapping[str, str]) -> Iterator[str]:
    for name, meaning in meanings.items():
        yield from (".TP", _bold(name), _text(meaning))


def _paragraphs(text: str) -> str:
    return "\n.PP\n".join(_text(part) for part in text.split("\n\n"))


def _bold(text: str) -> str:
    return f"\\fB{_text(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{_text(text)}\\fR"


def _text(text: str) -> str:
    """`text` as roff prints it: hyphens can be copied, and no line is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped


if __name__ == "__main__":
    os.environ["OVS_RUNDIR"] = _RUNDIR  # the page names the default, wherever it is made
    print("\n".join(page()))
