# SPDX-License-Identifier: Apache-2.0
"""The findings: whatever of the facts is wrong, and its remedy. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.doctor.facts import Facts, SocketFact
from ovs_vhost_plugin.doctor.names import entry_of

OLDEST_KERNEL = (5, 10)
OLDEST_SWITCH = (3, 1)
"""The oldest releases on which the tests run: docs/platforms.md."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    about  the part, or the port
    what   the error with its name, or a sentence
    means  what the name means, "" where `what` says it
    mend   the command that mends it, or what to do where no one command does
    """

    about: str
    what: str
    mend: str
    means: str = ""


_REMOVE = "ovs-vsctl remove Interface {port} external_ids vhost-user-"

_COMMANDS: dict[str, str] = {
    "queues-invalid": f"{_REMOVE}queues",
    "mode-unknown": f"{_REMOVE}mode",
    "path-missing": "ovs-vsctl set Interface {port} options:vhost-server-path=SOCKET",
    "path-unexpected": f"{_REMOVE}mode",
    "mtu-out-of-range": "ovs-vsctl clear Interface {port} mtu_request",
    "attached-mac-invalid": "ovs-vsctl set Interface {port} external_ids:attached-mac=MAC",
    "memory-files-unknown": f"{_REMOVE}memory-files",
    "offloads-unknown": f"{_REMOVE}offloads",
    "feature-unknown": f"{_REMOVE}features-off",
    "announce-key-unknown": f"{_REMOVE}announce",
    "announce-value-invalid": f"{_REMOVE}announce",
    "tap-foreign": "ip link del {port}",
    "upgrade-failed": "ovs-vhost upgrade {port}",
    "metrics-place-invalid": "ovs-vsctl remove Open_vSwitch . other_config vhost-user-metrics",
}
"""Commands for errors that one command mends, by name. Capitals stand for what only you know."""


def findings(facts: Facts) -> list[Finding]:
    """All findings: first of the machine, then of the switch, the daemon and each port."""
    checks: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
        _machine,
        _switch,
        _daemon,
        _rows,
        _ports,
    )
    return [finding for check in checks for finding in check(facts)]


def _machine(facts: Facts) -> Iterator[Finding]:
    if facts.kernel < OLDEST_KERNEL:
        shown = ".".join(map(str, facts.kernel))
        oldest = ".".join(map(str, OLDEST_KERNEL))
        yield Finding("kernel", f"Linux {shown} is older than {oldest}", "boot a later kernel")
    if facts.tun:
        yield Finding("kernel", f"/dev/net/tun: {facts.tun}", "modprobe tun")
    if facts.cache:
        mend = "chown -R root: /var/cache/ovs-vhost; chmod -R go-w /var/cache/ovs-vhost"
        yield _named("cache", facts.cache, mend)


def _switch(facts: Facts) -> Iterator[Finding]:
    if facts.database:
        mend = "systemctl start openvswitch-switch"
        yield Finding("database", f"{facts.remote}: {facts.database}", mend)
    if not facts.switch:
        mend = "systemctl start openvswitch-switch"
        yield Finding("switch", "ovs-vswitchd does not run", mend)
    elif _version(facts.switch) < OLDEST_SWITCH:
        oldest = ".".join(map(str, OLDEST_SWITCH))
        what = f"Open vSwitch {facts.switch} is older than {oldest}"
        yield Finding("switch", what, "apt install openvswitch-switch")


def _daemon(facts: Facts) -> Iterator[Finding]:
    shown = facts.daemon
    if shown is None:
        yield Finding("daemon", "it does not run", "systemctl start ovs-vhost")
        return
    if shown["standing"] != "active":
        mend = "ovs-appctl -t ovs-vhost exit  # of one of the two daemons"
        if shown["standing"].startswith("waiting"):
            mend = "systemctl start openvswitch-switch"
        yield Finding("daemon", shown["standing"], mend)
    if shown["version"] != __version__:
        what = f"it is of release {shown['version']}, this command of {__version__}"
        yield Finding("daemon", what, "systemctl restart ovs-vhost")
    if shown["sandbox"].startswith("without"):
        mend = "see docs/security.md: a later kernel, or the unit of the package"
        yield Finding("daemon", f"the workers' sandbox is {shown['sandbox']}", mend)
    if shown.get("metrics", "").startswith("metrics-"):
        yield _named("metrics", shown["metrics"])
    for one in shown["stuck"]:
        what = f"pid {one['pid']}, a worker that was killed, is stuck in the kernel"
        yield Finding(_name(one["name"]), what, f"cat /proc/{one['pid']}/stack; restart its VM")


def _rows(facts: Facts) -> Iterator[Finding]:
    if facts.daemon is not None:
        wrong = {**facts.daemon["leftovers"], **facts.daemon["wrong_rows"]}
        for name, error in sorted(wrong.items()):
            yield _named(name, error)


def _ports(facts: Facts) -> Iterator[Finding]:
    if facts.daemon is None:
        for name, error in sorted(facts.errors.items()):
            yield _named(name, error)
        return
    wrong = facts.daemon["wrong_rows"]
    for port in facts.daemon["ports"]:
        name = port["name"]
        if port["error"] and name not in wrong:
            yield _named(name, port["error"])
        if port["host_stack"].startswith("host-stack-open"):
            yield _named(name, port["host_stack"])
        if port["worker"] and port["worker"]["outdated"]:
            what = f"its worker is of another build: {port['worker']['outdated']}"
            yield Finding(_name(name), what, f"ovs-vhost upgrade {_word(name)}")
        if port["status"] != "running" and not port["error"]:
            yield _waits(port, facts.sockets.get(name))


def _waits(port: Mapping[str, Any], found: SocketFact | None) -> Finding:
    """A port that does not run, and of which no error is known."""
    name, path, status = _name(port["name"]), escaped(port["socket"]), port["status"]
    if status == "connecting" and found is not None and not found.there:
        what = f"connecting: {path}: {found.why or 'there is no socket'}"
        return Finding(name, what, "start the VM: QEMU listens there with server=on")
    if status == "connecting":
        mend = f"ss -xlp src {_word(port['socket'])}"
        return Finding(name, f"connecting: nobody answers on {path}", mend)
    if status == "listening":
        mend = f"start the VM, with reconnect=1 and the path {path}"
        return Finding(name, "listening: no VM has connected", mend)
    if status == "connected":
        what = "connected: the guest has no driver for its NIC that runs"
        return Finding(name, what, "in the guest: modprobe virtio_net; ip link set eth0 up")
    return Finding(name, f"{status}: it is not ready yet", f"ovs-vhost watch {_word(port['name'])}")


def notes(facts: Facts) -> list[str]:
    """Settings that are not wrong, and may be better otherwise."""
    shown = facts.daemon
    if shown is None or facts.takes_offloads or not facts.userspace:
        return []
    finished = [p["name"] for p in shown["ports"] if p["finish_offloads"]]
    slow = [_name(name) for name in finished if name in facts.userspace]
    if not slow:
        return []
    command = "ovs-vsctl set Open_vSwitch . other_config:userspace-tso-enable=true"
    return [
        f"checksums and large frames of {', '.join(slow[:4])} are finished by the port, as its "
        f"bridge takes none: {command}, and start Open vSwitch again"
    ]


def _named(about: str, error: str, mend: str = "") -> Finding:
    """The finding of an error with a name: its entry says what to do where no command does."""
    name, entry = error.partition(":")[0], entry_of(error)
    port = _name(about)
    if not mend and name in _COMMANDS:
        mend = _COMMANDS[name].format(port=_word(about))
    if entry is None:
        return Finding(port, error, mend or "journalctl -u ovs-vhost")
    return Finding(port, error, mend or entry.do, entry.means)


def _name(name: str) -> str:
    return escaped(name)


def _word(text: str) -> str:
    """A word of a command that is to be copied into a shell: a row may have any name."""
    return shlex.quote(escaped(text))


def _version(text: str) -> tuple[int, ...]:
    words = text.split(".")[:2]
    return tuple(int(word) for word in words if word.isdigit())
